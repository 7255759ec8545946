"""The context of the served call. The transport sets it; every layer below reads it with `current_context()`."""

import re
from asyncio import get_running_loop
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from grpc import StatusCode

from vsyncd.core.grants import FULL_GRANT, NO_GRANT, Grant

# A method of a service gets gRPC's own context, grpc.aio.ServicerContext. Services use RequestContext instead.
Context: TypeAlias = Any

# The database rejects a longer actor.
MAX_ACTOR_CHARS: Final = 200
# The principal of a caller without credentials.
ANONYMOUS: Final = "anonymous"
# In the metadata of a call, and in its trailing metadata.
CORRELATION_ID_HEADER: Final = "x-correlation-id"
MAX_CORRELATION_ID_CHARS: Final = 128
CORRELATION_ID_FORM: Final = re.compile(f"[!-~]{{1,{MAX_CORRELATION_ID_CHARS}}}").fullmatch
# In the trailing metadata of a write, and in the metadata of a read that must see that write.
CONSISTENCY_TOKEN_HEADER: Final = "x-consistency-token"  # noqa: S105  the name of a header


@dataclass(slots=True)
class RequestContext:
    """One call.

    `method` is the full name without a leading slash (vsync.v1.CidService/CreateCid). `metadata` has keys in lower
    case. `principal` is the authenticated caller and `grant` what it may do. `deadline` is a time of the event loop's
    clock in seconds, or None for a call without one (streams). `code` and `reason` are the status code and the error
    reason of the answer. `token` is the consistency token of the call's writes. `count_sent` is called for each message
    of a response stream.
    """

    method: str
    metadata: dict[str, str | bytes] = field(default_factory=dict)
    correlation_id: str = ""
    principal: str = ANONYMOUS
    grant: Grant = NO_GRANT
    deadline: float | None = None
    code: StatusCode | None = None
    reason: str = ""
    count_sent: Callable[[], None] | None = None
    token: str = ""
    servicer_context: Any = None  # grpc.aio.ServicerContext is generic over the method's messages

    def remaining(self) -> float | None:
        """Returns the seconds until the deadline, at least 0, or None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - get_running_loop().time())


_current: ContextVar[RequestContext] = ContextVar("vsyncd_call")
_no_call = RequestContext(method="", correlation_id="-", principal="vsyncd", grant=FULL_GRANT)

set_current_context = _current.set
reset_current_context = _current.reset


def log_fields() -> dict[str, str]:
    """Returns the fields of a log event that identify the current call; none outside of a call."""
    context = current_context()
    return {"correlation_id": context.correlation_id, "method": context.method} if context.method else {}


def current_context() -> RequestContext:
    """Returns the current call. In a background job it is a call of vsyncd's own without a deadline."""
    return _current.get(_no_call)
