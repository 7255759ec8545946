"""What every call gets, whatever kind of channel it goes over: a deadline, a correlation id, a request_id, and the
client's own writes to be read."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from vsync.consistency import CONSISTENCY_TOKEN_KEY, OwnWrites
from vsync.correlation_id import current_correlation_id
from vsync.errors import CallError, call_error
from vsync.rpc_status import CORRELATION_KEY, read_status

SentMetadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, kw_only=True)
class CallDefaults:
    """What a call gets that does not say otherwise."""

    timeout: float | None
    """Seconds, for calls with one answer. Streams last as long as they need."""
    correlation_id: str | None
    own_writes: OwnWrites | None = None
    """Where the client's writes are kept in mind; None: nowhere."""

    @property
    def token(self) -> str:
        """Of the client's writes; empty: none."""
        return "" if self.own_writes is None else self.own_writes.token

    def note(self, trailing_metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
        """What came behind a good answer."""
        if self.own_writes is not None:
            self.own_writes.note(trailing_metadata)


class PreparedCall(NamedTuple):
    """A call as it goes out."""

    request: Any
    metadata: SentMetadata
    correlation_id: str
    request_id: str

    def error(self, cause: grpc.RpcError) -> CallError:
        """The typed exception for a call that failed. Raise it from its cause."""
        # Both kinds of channel raise RpcErrors that are Calls; the base class does not say so.
        call: Any = cause
        return call_error(
            read_status(
                call.code(),
                call.details() or "",
                call.trailing_metadata() or (),
                correlation_id=self.correlation_id,
                request_id=self.request_id,
            )
        )


def prepare(
    request: object, metadata: Iterable[tuple[str, str | bytes]] | None, defaults: CallDefaults
) -> PreparedCall:
    """Gives a call its correlation id and, when the request has an empty request_id, a new UUID.

    The caller's message is left as it is: sent a second time, it must be a second request. A stream's request is an
    iterator, and passes through. The correlation id is, in this order: the one in the metadata, that of the enclosing
    `correlation` block, the client's, a new one. What is no mutation takes the token of the client's writes along.
    """
    sent: SentMetadata = tuple(metadata or ())
    correlation_id = next((value for key, value in sent if key == CORRELATION_KEY and isinstance(value, str)), None)
    if correlation_id is None:
        correlation_id = current_correlation_id() or defaults.correlation_id or str(uuid.uuid4())
        sent = (*sent, (CORRELATION_KEY, correlation_id))
    request_id = ""
    if isinstance(request, Message) and _has_request_id(request.DESCRIPTOR):
        request, request_id = _with_request_id(request)
    elif (token := defaults.token) and all(key != CONSISTENCY_TOKEN_KEY for key, _ in sent):
        sent = (*sent, (CONSISTENCY_TOKEN_KEY, token))
    return PreparedCall(request, sent, correlation_id, request_id)


@cache
def _has_request_id(message: Descriptor) -> bool:
    return "request_id" in message.fields_by_name


def _with_request_id(request: Message) -> tuple[Message, str]:
    copy: Any = type(request)()
    copy.CopyFrom(request)
    copy.request_id = copy.request_id or str(uuid.uuid4())
    return copy, copy.request_id
