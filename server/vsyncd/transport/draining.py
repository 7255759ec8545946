"""The end of serving, as calls see it: new ones are turned away, streams are ended, the others may finish.

gRPC's own stop cancels whatever reaches the server in the moment it begins, and does not wait for calls that are being
aborted (grpc#37239). So it comes last, when no call is in flight and none has come for a moment.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from vsyncd.core.context import RequestContext
from vsyncd.core.errors import Unavailable

T = TypeVar("T")

# Seconds: without a new call, after which gRPC's stop meets none; and the most that is waited for that.
_QUIET: Final = 0.05
_RUSH: Final = 1.0


class ShuttingDown(Unavailable):
    """This server is going; another one, or the next one here, goes on."""

    def __init__(self) -> None:
        super().__init__("SHUTTING_DOWN", "The server is shutting down.", retry_after=0.5)


class Drain:
    """Knows the calls in flight, and ends them in good order once `begin` was called."""

    def __init__(self) -> None:
        self.begun = False
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._limits: dict[asyncio.Timeout, float] = {}
        self._last_arrival = 0.0

    def begin(self) -> None:
        """From now on calls are turned away. Streams end: what waits in `unless_begun` is cancelled."""
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
        """Wait until no call that came before `begin` is in flight."""
        await self._idle.wait()

    async def finished(self) -> None:
        """As `idle`, and for a moment in which no call comes."""
        await self.idle()
        clock = asyncio.get_running_loop().time
        end = clock() + _RUSH
        while (now := clock()) < min(end, self._last_arrival + _QUIET):  # noqa: ASYNC110  what is awaited is nothing
            await asyncio.sleep(self._last_arrival + _QUIET - now)

    async def serve(
        self, handler: Callable[[Any, RequestContext], Awaitable[T]], request: Any, context: RequestContext
    ) -> T:
        """The call's response. It counts as in flight, unless it comes when the end has begun: it will be short."""
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

    async def unless_begun(self, awaitable: Awaitable[T], *, within: float | None = None, grace: float = 0.0) -> T:
        """The result of what a stream waits for. Raises ShuttingDown `grace` seconds after `begin`, and TimeoutError
        after `within` seconds; the awaitable is cancelled then."""
        limit = asyncio.timeout(grace if self.begun else within)
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
