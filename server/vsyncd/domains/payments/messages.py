"""Reads messages of payments, and creates them from records."""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from google.protobuf.message import Message
from vsync.payments.v1 import payment_pb2 as pb
from vsync.payments.v1 import processor_health_pb2 as health_pb

from vsyncd.core.paging import decode_page_token, encode_page_token
from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import Validator
from vsyncd.domains.payments.records import (
    MAX_AMOUNT,
    MAX_CORRELATION_ID_CHARS,
    MIN_AMOUNT,
    NewPayment,
    Payment,
    Position,
    ProcessorHealth,
)
from vsyncd.domains.payments.summaries import END_OF_TIME

_CENT: Final = Decimal("0.01")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# The content of a page token: processed_at in microseconds since 1970, and the id.
_POSITION: Final = struct.Struct("!Q16s")


def read_payment(payment: pb.Payment, prefix: str, validator: Validator, processors: Sequence[str]) -> NewPayment:
    """Returns a payment of a request."""
    amount = validator.decimal(f"{prefix}amount", payment.amount, scale=2, min_value=MIN_AMOUNT, max_value=MAX_AMOUNT)
    return NewPayment(
        correlation_id=validator.text(
            f"{prefix}correlation_id", payment.correlation_id, max_chars=MAX_CORRELATION_ID_CHARS
        ),
        amount=amount.quantize(_CENT),
        processor=read_processor(validator, f"{prefix}processor", payment.processor, processors),
        requested_at=_read_time(validator, prefix, payment, "requested_at"),
        processed_at=_read_time(validator, prefix, payment, "processed_at"),
    )


def read_processor(validator: Validator, field: str, name: str, processors: Sequence[str]) -> str:
    """Returns the name of a configured processor."""
    if name not in processors:
        validator.add(field, f"must be one of {', '.join(processors)}")
    return name


def read_processed_range(
    request: pb.ListPaymentsRequest | pb.GetPaymentsSummaryRequest, validator: Validator
) -> tuple[datetime | None, datetime | None]:
    """Returns the range [from, below) of a request, whose times are both inclusive."""
    begins = validator.optional_time("", request, "processed_from")
    last = validator.optional_time("", request, "processed_to", round_down=True)
    if last is None or last >= END_OF_TIME:
        return begins, None
    ends = last + _MICROSECOND
    if begins is not None and ends <= begins:
        # Both can be within one microsecond, in which there is no stored time.
        first, end = request.processed_from, request.processed_to
        if (end.seconds, end.nanos) < (first.seconds, first.nanos):
            validator.add("processed_to", "must not be before processed_from")
        return begins, begins
    return begins, ends


def payment_message(payment: Payment) -> pb.Payment:
    """Returns the message of a payment."""
    return pb.Payment(
        id=str(payment.id),
        correlation_id=payment.correlation_id,
        amount=amount_text(payment.amount),
        processor=payment.processor,
        requested_at=timestamp(payment.requested_at),
        processed_at=timestamp(payment.processed_at),
        created_at=timestamp(payment.created_at),
    )


def health_message(health: ProcessorHealth) -> health_pb.ProcessorHealth:
    """Returns the message of a processor's health."""
    return health_pb.ProcessorHealth(
        processor=health.processor,
        healthy=health.healthy,
        min_response_time_ms=health.min_response_time_ms,
        reported_at=timestamp(health.reported_at),
    )


def amount_text(amount: Decimal) -> str:
    """Returns an amount with two decimals."""
    return f"{amount:.2f}"


def decode_position(token: str, *scope: object) -> Position | None:
    """Returns the position of a page token, or None for an empty token. Raises InvalidFields."""
    if not token:
        return None
    microseconds, identifier = _POSITION.unpack(decode_page_token(token, *scope))
    return Position(_EPOCH + microseconds * _MICROSECOND, UUID(bytes=identifier))


def encode_position(position: Position | None, *scope: object) -> str:
    """Returns the page token of a position, or an empty text for None."""
    if position is None:
        return ""
    microseconds = (position.processed_at - _EPOCH) // _MICROSECOND
    return encode_page_token(_POSITION.pack(microseconds, position.id.bytes), *scope)


def _read_time(validator: Validator, prefix: str, message: Message, name: str) -> datetime:
    time = validator.required_time(prefix, message, name, round_down=True)
    if time >= END_OF_TIME:
        validator.add(prefix + name, "must be a time from 1970 to 9998")
    return time
