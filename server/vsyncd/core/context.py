"""The call that is being served: who makes it, under which names, until when.

The transport fills it in; services and what lies below them read it with `current_context()`.
"""

from asyncio import get_running_loop
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from grpc import StatusCode

# grpc.aio.ServicerContext as generated servicers annotate it; services read RequestContext instead.
Context: TypeAlias = Any

# The columns that store an actor refuse a longer one.
MAX_ACTOR_CHARS: Final = 200
# Trailing metadata of a write, and metadata of a read that must see that write.
CONSISTENCY_TOKEN_HEADER: Final = "x-consistency-token"  # noqa: S105  the name of a header


@dataclass(slots=True)
class RequestContext:
    """One RPC.

    `method` is the full name without the leading slash (vsync.v1.CidService/CreateCid). `deadline` is a time of the
    event loop's clock, in seconds; None: the call has none (streams). `metadata` are the request's, keys in lower case.
    `code` is the status that the call ended with, `reason` that of the failure it was answered with, `token` the
    consistency token of what it wrote. `count_sent` is called for each message of a stream.
    """

    method: str
    metadata: dict[str, str | bytes] = field(default_factory=dict)
    correlation_id: str = ""
    actor: str = "anonymous"
    deadline: float | None = None
    code: StatusCode | None = None
    reason: str = ""
    count_sent: Callable[[], None] | None = None
    token: str = ""
    context: Any = None  # grpc.aio.ServicerContext is generic over messages that this module must not know

    def remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - get_running_loop().time())


_current: ContextVar[RequestContext] = ContextVar("vsyncd_call")
_outside = RequestContext(method="", correlation_id="-", actor="vsyncd")

set_current_context = _current.set
reset_current_context = _current.reset


def log_fields() -> dict[str, str]:
    """What a log event says about the call being served; empty outside of one."""
    context = current_context()
    return {"correlation_id": context.correlation_id, "method": context.method} if context.method else {}


def current_context() -> RequestContext:
    """The call being served; outside of one (background jobs) a call of vsyncd's own, without a deadline."""
    return _current.get(_outside)
