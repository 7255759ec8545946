"""No more calls at once than can be served: a clear refusal now is better than a queue that only grows."""

from typing import Any

from vsyncd.call import Call
from vsyncd.errors import ResourceExhausted
from vsyncd.transport.pipeline import Handler, Method


class Admission:
    """Counts the calls in flight and refuses those past the limit. Probes are always let in."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self.in_flight = 0

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """See Interceptor."""
        if method.is_health:
            return handler

        async def admit(request: Any, call: Call) -> Any:
            if self.in_flight >= self._most:
                raise ResourceExhausted("OVERLOADED", "Too many calls at once.", retry_after=0.2)
            self.in_flight += 1
            try:
                return await handler(request, call)
            finally:
                self.in_flight -= 1

        return admit
