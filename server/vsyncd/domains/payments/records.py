"""Records of payments and of the health of processors."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.core.ids import time_of
from vsyncd.postgres.tables import RecordTable

MAX_CORRELATION_ID_CHARS: Final = 255
MAX_PROCESSOR_CHARS: Final = 50
MIN_AMOUNT: Final = Decimal("0.01")
MAX_AMOUNT: Final = Decimal("99999999.99")
MAX_RESPONSE_TIME_MS: Final = 3_600_000
# A report about a processor is valid for this time.
REPORT_TTL: Final = timedelta(seconds=30)


class NewPayment(NamedTuple):
    """A validated payment of a caller. `amount` has two decimals."""

    correlation_id: str
    amount: Decimal
    processor: str
    requested_at: datetime
    processed_at: datetime


class Payment(NamedTuple):
    """A stored payment. Its fields are the columns of the table payments, as queries select them (PAYMENT_COLUMNS)."""

    id: UUID
    created_at: datetime
    correlation_id: str
    amount: Decimal
    processor: str
    requested_at: datetime
    processed_at: datetime

    @classmethod
    def created(cls, identifier: UUID, new: NewPayment) -> "Payment":
        """Returns the payment that is stored with this id."""
        return cls(identifier, time_of(identifier), *new)

    @property
    def content(self) -> NewPayment:
        """What the caller has given."""
        return NewPayment._make(self[2:])


PAYMENT_COLUMNS: Final = ", ".join(Payment._fields)


class StoredPayment(NamedTuple):
    """A payment, and whether this request has stored it."""

    payment: Payment
    stored: bool


class PaymentFilter(NamedTuple):
    """Selects payments; None matches any value. The time range is [processed_from, processed_below)."""

    processor: str | None = None
    processed_from: datetime | None = None
    processed_below: datetime | None = None


class Position(NamedTuple):
    """The position of a payment in the order of lists."""

    processed_at: datetime
    id: UUID


class Page(NamedTuple):
    """Payments, and the position after which the next page begins, or None on the last page."""

    payments: Sequence[Payment]
    next_after: Position | None


class ProcessorTotal(NamedTuple):
    """The number and the sum of a processor's payments."""

    processor: str
    payments: int
    amount: Decimal


class ProcessorReport(NamedTuple):
    """The last report about a processor: a row of the table processor_health."""

    processor: str
    healthy: bool
    min_response_time_ms: int
    reported_at: datetime
    revision: int


class ProcessorHealth(NamedTuple):
    """The health of a processor. `reported_at` is None if there is no report."""

    processor: str
    healthy: bool = False
    min_response_time_ms: int = 0
    reported_at: datetime | None = None


TABLES: Final = (
    RecordTable(
        Payment,
        "payments",
        max_chars={"correlation_id": MAX_CORRELATION_ID_CHARS, "processor": MAX_PROCESSOR_CHARS},
    ),
    RecordTable(ProcessorReport, "processor_health", max_chars={"processor": MAX_PROCESSOR_CHARS}),
)
