"""Draining at shutdown: rejects new calls, ends streams and waits for the other calls.

gRPC's own stop cancels calls that arrive when it begins, and does not wait for calls that are being aborted
(grpc#37239). It is therefore called last, when no call is in flight or has just arrived.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from vsyncd.core.context import RequestContext
from vsyncd.core.errors import Unavailable

T = TypeVar("T")

# gRPC's stop may begin after this time without a new call.
_QUIET_S: Final = 0.05
_MAX_WAIT_FOR_QUIET_S: Final = 1.0


class ShuttingDown(Unavailable):
    """The server is shutting down. The caller should retry, on another server or after the restart."""

    def __init__(self) -> None:
        super().__init__("SHUTTING_DOWN", "The server is shutting down.", retry_after=0.5)


class Drain:
    """Counts the calls in flight, and ends them after `begin`."""

    def __init__(self) -> None:
        self.begun = False
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._limits: dict[asyncio.Timeout, float] = {}
        self._last_arrival = 0.0

    def begin(self) -> None:
        """Rejects calls from now on, and cancels what streams await in `unless_begun`."""
        if self.begun:
            return
        self.begun = True
        now = self._last_arrival = asyncio.get_running_loop().time()
        for limit, grace in self._limits.items():
            if not limit.expired():
                limit.reschedule(now + grace)
        if not self.in_flight:
            self._idle.set()

    async def idle(self) -> None:
        """Waits until no call that arrived before `begin` is in flight."""
        await self._idle.wait()

    async def finished(self) -> None:
        """Waits for `idle`, and until calls have stopped arriving."""
        await self.idle()
        clock = asyncio.get_running_loop().time
        end = clock() + _MAX_WAIT_FOR_QUIET_S
        while (now := clock()) < min(end, self._last_arrival + _QUIET_S):  # noqa: ASYNC110  it waits for the absence of an event
            await asyncio.sleep(self._last_arrival + _QUIET_S - now)

    async def serve(
        self, handler: Callable[[Any, RequestContext], Awaitable[T]], request: Any, context: RequestContext
    ) -> T:
        """Returns the response of a call. A call that arrives after `begin` is rejected soon, and is not counted."""
        if self.begun:
            self._last_arrival = asyncio.get_running_loop().time()
            return await handler(request, context)
        self.in_flight += 1
        try:
            return await handler(request, context)
        finally:
            self.in_flight -= 1
            if self.begun and not self.in_flight:
                self._idle.set()

    async def unless_begun(self, awaitable: Awaitable[T], *, timeout: float | None = None, grace: float = 0.0) -> T:
        """Returns the result of an awaitable of a stream, or cancels it.

        Raises ShuttingDown `grace` seconds after `begin`, and TimeoutError after `timeout` seconds.
        """
        limit = asyncio.timeout(grace if self.begun else timeout)
        try:
            async with limit:
                self._limits[limit] = grace
                try:
                    return await awaitable
                finally:
                    del self._limits[limit]
        except TimeoutError as error:
            if self.begun and limit.expired():
                raise ShuttingDown from error
            raise
