"""Limits the unary calls and the streams that each principal has in flight."""

from random import uniform
from typing import Any

from vsyncd.core.context import ANONYMOUS, RequestContext
from vsyncd.core.errors import ResourceExhausted
from vsyncd.observability.logs import Sample, logger
from vsyncd.transport.pipeline import Handler, Method

_log = logger(__name__)


class QuotaExceeded(ResourceExhausted):
    """The caller has too many calls in flight. The random delay spreads the retries."""

    def __init__(self, limit: int, kind: str) -> None:
        message = f"The caller has {limit} {kind} in flight, which is the limit."
        super().__init__("QUOTA_EXCEEDED", message, retry_after=uniform(0.2, 1.0))  # noqa: S311  no secret


class Quota:
    """Raises QuotaExceeded, except for calls of exempt methods.

    Callers without credentials are counted by the address from which they connect.
    """

    def __init__(self, *, max_calls: int, max_streams: int) -> None:
        self._max_calls = max_calls
        self._max_streams = max_streams
        # By principal or address, without zeros: they have at most one entry for each call in flight.
        self._calls: dict[str, int] = {}
        self._streams: dict[str, int] = {}
        self._sample = Sample(1)

    def wrap(self, method: Method, handler: Handler) -> Handler:
        if method.is_exempt:
            return handler
        if method.unary:
            return self._limit(handler, self._calls, self._max_calls, "calls")
        return self._limit(handler, self._streams, self._max_streams, "streams")

    def _limit(self, handler: Handler, in_flight: dict[str, int], limit: int, kind: str) -> Handler:
        async def count(request: Any, context: RequestContext) -> Any:
            caller = context.principal
            if caller == ANONYMOUS:
                caller = _address(context)
            others = in_flight.get(caller, 0)
            if others >= limit:
                self._report(caller, limit, kind)
                raise QuotaExceeded(limit, kind)
            in_flight[caller] = others + 1
            try:
                return await handler(request, context)
            finally:
                if (others := in_flight[caller] - 1) > 0:
                    in_flight[caller] = others
                else:
                    del in_flight[caller]

        return count

    def _report(self, caller: str, limit: int, kind: str) -> None:
        """Logs the caller, which the metrics do not name."""
        left_out = self._sample.take(kind)
        if left_out is not None:
            _log.warning("quota exceeded", caller=caller, kind=kind, limit=limit, left_out=left_out)


def _address(context: RequestContext) -> str:
    """Returns the address of the peer without its port, for example `ipv4:10.0.0.7`."""
    peer: str = context.servicer_context.peer()
    return peer.rpartition(":")[0]
