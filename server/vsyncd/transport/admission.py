"""Limits the calls in flight: an overloaded server rejects calls instead of queueing them.

Streams may use half of the limit, because they last long and would otherwise block unary calls. Rejecting a call costs
more than half of what a small call costs. The limits are therefore where calls would wait longer than their callers do,
not where the server becomes busy.
"""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from vsyncd.core.context import RequestContext
from vsyncd.core.errors import Overloaded
from vsyncd.transport.draining import Drain, ShuttingDown
from vsyncd.transport.open_calls import OpenCalls
from vsyncd.transport.pipeline import Handler, Method


class Admission:
    """Rejects calls above the limits of calls, streams or request bytes in flight, and during shutdown.

    Accepts calls of exempt methods always; `exempt` holds their streams.
    """

    def __init__(self, *, max_calls: int, max_bytes: int, drain: Drain, exempt: OpenCalls) -> None:
        self._exempt = exempt
        self._max_calls = max_calls
        self._max_streams = max(1, max_calls // 2)
        self._max_bytes = max_bytes
        self._drain = drain
        self.calls = 0
        self.streams = 0
        self.bytes = 0

    def wrap(self, method: Method, handler: Handler) -> Handler:
        if method.is_exempt:
            return self._hold(handler) if method.response_streaming else handler
        streams = 0 if method.unary else 1

        async def admit(request: bytes, context: RequestContext) -> Any:
            self._check(streams)
            size = len(request)
            self.take(size)
            self.calls += 1
            self.streams += streams
            try:
                return await handler(request, context)
            finally:
                self.calls -= 1
                self.streams -= streams
                self.bytes -= size

        async def admit_stream(requests: AsyncIterable[bytes], context: RequestContext) -> Any:
            self._check(streams)
            self.calls += 1
            self.streams += streams
            measured = _MeasuredRequests(self, requests)
            try:
                return await handler(measured, context)
            finally:
                self.calls -= 1
                self.streams -= streams
                measured.release()

        return admit_stream if method.request_streaming else admit

    def _hold(self, handler: Handler) -> Handler:
        async def hold(request: Any, context: RequestContext) -> Any:
            return await self._exempt.hold(handler(request, context))

        return hold

    def _check(self, streams: int) -> None:
        if self._drain.begun:
            raise ShuttingDown
        if self.calls >= self._max_calls or self.streams + streams > self._max_streams:
            raise Overloaded

    def take(self, size: int) -> None:
        """Counts the bytes of a message. Raises Overloaded."""
        # A single message is always accepted: GRPC_MAX_REQUEST_BYTES limits its size.
        if self.bytes and self.bytes + size > self._max_bytes:
            raise Overloaded
        self.bytes += size


class _MeasuredRequests:
    """The requests of a stream. Counts the size of the current one."""

    def __init__(self, admission: Admission, requests: AsyncIterable[bytes]) -> None:
        self._admission = admission
        self._requests = requests
        self._size = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for request in self._requests:
            self.release()
            self._admission.take(len(request))
            self._size = len(request)
            yield request

    def release(self) -> None:
        self._admission.bytes -= self._size
        self._size = 0
