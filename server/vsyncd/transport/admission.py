"""No more calls at once than can be served: a clear refusal now is better than a queue that only grows.

Streams may take half of the places: they last, and those who hold them would lock out the calls that want an answer.
Refusing is no bargain in Python: it costs more than half of what a small call does. The limits are where waiting would
take longer than callers wait, not where the server is busy.
"""

from collections.abc import AsyncIterable, AsyncIterator
from random import uniform
from typing import Any

from vsyncd.core.context import RequestContext
from vsyncd.core.errors import ResourceExhausted
from vsyncd.transport.draining import Drain, ShuttingDown
from vsyncd.transport.pipeline import Handler, Method


class Overloaded(ResourceExhausted):
    """Too many calls, or too large ones, are in flight. Those who are refused together come back apart."""

    def __init__(self) -> None:
        super().__init__("OVERLOADED", "Too many calls at once.", retry_after=uniform(0.2, 1.0))  # noqa: S311  no secret


class Admission:
    """Counts the calls in flight, the streams among them, and the bytes of their requests, and refuses what is past a
    limit, or comes when the server is shutting down. Probes are always let in."""

    def __init__(self, *, most_calls: int, most_bytes: int, drain: Drain) -> None:
        self._most_calls = most_calls
        self._most_streams = max(1, most_calls // 2)
        self._most_bytes = most_bytes
        self._drain = drain
        self.calls = 0
        self.streams = 0
        self.bytes = 0

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """See Interceptor."""
        if method.is_health:
            return handler
        streams = 0 if method.unary else 1

        async def admit(request: bytes, context: RequestContext) -> Any:
            self._check(streams)
            weight = len(request)
            self.take(weight)
            self.calls += 1
            self.streams += streams
            try:
                return await handler(request, context)
            finally:
                self.calls -= 1
                self.streams -= streams
                self.bytes -= weight

        async def admit_stream(requests: AsyncIterable[bytes], context: RequestContext) -> Any:
            self._check(streams)
            self.calls += 1
            self.streams += streams
            weighed = _Weighed(self, requests)
            try:
                return await handler(weighed, context)
            finally:
                self.calls -= 1
                self.streams -= streams
                weighed.release()

        return admit_stream if method.request_streaming else admit

    def _check(self, streams: int) -> None:
        if self._drain.begun:
            raise ShuttingDown
        if self.calls >= self._most_calls or self.streams + streams > self._most_streams:
            raise Overloaded

    def take(self, weight: int) -> None:
        """Count a message. Raises Overloaded."""
        # One that is alone is let in whatever its size: the largest message has a limit of its own.
        if self.bytes and self.bytes + weight > self._most_bytes:
            raise Overloaded
        self.bytes += weight


class _Weighed:
    """A stream's requests, of which the present one counts."""

    def __init__(self, admission: Admission, requests: AsyncIterable[bytes]) -> None:
        self._admission = admission
        self._requests = requests
        self._weight = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for request in self._requests:
            self.release()
            self._admission.take(len(request))
            self._weight = len(request)
            yield request

    def release(self) -> None:
        """Nothing of the stream counts any more."""
        self._admission.bytes -= self._weight
        self._weight = 0
