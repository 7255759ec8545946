"""A line of those who wait for a connection: first come, first served, and no longer than there is room."""

import asyncio
from collections import deque
from contextlib import suppress

from vsyncd.core.errors import ServiceError
from vsyncd.postgres.error_mapping import PoolExhausted


class ConnectionLimiter:
    """As many as there can be connections. Who holds one has at most to wait until his connection is made.

    That is what tells a pool that is exhausted from one that is cold, or whose server is gone. `most_waiting` bounds
    the line: behind it, PoolExhausted is raised at once.
    """

    def __init__(self, *, most: int, most_waiting: int) -> None:
        self._free = most
        self._most_waiting = most_waiting
        self._line: deque[asyncio.Future[None]] = deque()
        self.waited = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    @property
    def free(self) -> int:
        """How many are not held."""
        return self._free

    async def acquire(self, seconds: float) -> None:
        """Take one. Raises PoolExhausted when none becomes free in time."""
        if self._free:
            self._free -= 1
            return
        if len(self._line) >= self._most_waiting:
            raise PoolExhausted
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._line.append(future)
        timer = loop.call_later(seconds, self._expire, future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release()  # it was given in the very turn in which we were cancelled
            raise
        finally:
            timer.cancel()
            with suppress(ValueError):  # whoever gives it takes it out of the line
                self._line.remove(future)
            self.waited += 1

    def release(self) -> None:
        """Give one back: to the first in the line, if any."""
        while self._line:
            future = self._line.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._free += 1

    def dismiss(self, failure: ServiceError) -> None:
        """Send everyone in the line away."""
        for future in self._line:
            if not future.done():
                future.set_exception(failure)

    def _expire(self, future: "asyncio.Future[None]") -> None:
        if not future.done():
            future.set_exception(PoolExhausted())
