"""Limits the calls that wait for their clients. An open call occupies about 20 KB, also before its request arrives."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from time import monotonic
from typing import Any, Final, TypeVar

import grpc

from vsyncd.config import Settings
from vsyncd.core.errors import DeadlineExceeded, InvalidArgument, Overloaded, ServiceError
from vsyncd.observability.metrics import FAILURES
from vsyncd.transport.error_mapping import send_error

T = TypeVar("T")

_CHECKS_PER_TIMEOUT: Final = 4


def max_open_calls(settings: Settings) -> int:
    """Returns the limit of the calls of one connection, and of those that wait for their clients on all of them."""
    return 2 * settings.max_concurrent_calls + 100


class OpenCalls:
    """Holds at most `limit` calls. A further call ends the one that has been held longest.

    Rejecting the further call instead would let a client that opens calls and sends nothing block all others. If
    `timeout` is given, a call also ends after about that number of seconds.
    """

    def __init__(self, limit: int, *, timeout: float | None = None) -> None:
        self._limit = limit
        self._timeout = timeout
        self._held_since: dict[asyncio.Task[Any], float] = {}  # in the order of their times
        self._ended: dict[asyncio.Task[Any], ServiceError] = {}
        self._check: asyncio.TimerHandle | None = None

    async def hold(self, waiting: Awaitable[T]) -> T:
        """Returns the result of what the current task awaits.

        If the call is ended here: raises Overloaded, or DeadlineExceeded (STREAM_STALLED) after the timeout.
        """
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # a coroutine has a task
        held = self._held_since
        if len(held) >= self._limit:
            self._end(next(iter(held)), Overloaded())
        held[task] = monotonic()
        if self._timeout is not None and self._check is None:
            self._schedule_check(self._timeout)
        try:
            return await waiting
        except asyncio.CancelledError as cancelled:
            # gRPC may have cancelled the call, too, because its client is gone.
            if task in self._ended and not task.uncancel():
                raise self._ended[task] from cancelled
            raise
        finally:
            held.pop(task, None)
            self._ended.pop(task, None)

    def _end(self, task: "asyncio.Task[Any]", error: ServiceError) -> None:
        del self._held_since[task]
        self._ended[task] = error
        task.cancel()

    def _schedule_check(self, timeout: float) -> None:
        delay = timeout / _CHECKS_PER_TIMEOUT
        self._check = asyncio.get_running_loop().call_later(delay, self._end_overdue, timeout)

    def _end_overdue(self, timeout: float) -> None:
        # One timer for all calls: a timer for each would cost more than the rest of `hold`.
        end = monotonic() - timeout
        for task in [task for task, since in self._held_since.items() if since <= end]:
            self._end(task, DeadlineExceeded("STREAM_STALLED", "No request arrived in time."))
        self._check = None
        if self._held_since:
            self._schedule_check(timeout)


class RequestReceiver:
    """Receives the request of a call that has only one. It belongs to no interceptor: most such calls are not logged.

    A call whose request does not arrive is ended, and counted by its reason.
    """

    def __init__(self, open_calls: OpenCalls) -> None:
        self._open_calls = open_calls

    async def __call__(self, servicer_context: Any) -> bytes:
        try:
            request = await self._open_calls.hold(servicer_context.read())
            if request is not grpc.aio.EOF:
                return bytes(request)
            error: ServiceError = InvalidArgument("MALFORMED_REQUEST", "The call has no request.")
        except ServiceError as ended:
            error = ended
        FAILURES.labels(error.reason).inc()
        # InternalError: the client is gone.
        with suppress(grpc.aio.InternalError):
            await send_error(servicer_context, error)
        raise asyncio.CancelledError
