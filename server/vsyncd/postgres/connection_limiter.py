"""Limits the number of connections in use, and the number of callers that wait for one, in FIFO order."""

import asyncio
from collections import deque
from contextlib import suppress

from vsyncd.core.errors import ServiceError
from vsyncd.postgres.error_mapping import PoolExhausted


class ConnectionLimiter:
    """A fair semaphore with one slot for each connection of the pool.

    A caller with a slot waits only for its connection to be established. This distinguishes an exhausted pool from a
    pool that is filling or whose server is down.
    """

    def __init__(self, *, max_connections: int, max_waiting: int) -> None:
        self._free = max_connections
        self._max_waiting = max_waiting
        self._queue: deque[asyncio.Future[None]] = deque()
        self.total_waits = 0

    @property
    def waiting(self) -> int:
        """The number of callers that wait."""
        return len(self._queue)

    @property
    def free(self) -> int:
        """The number of free slots."""
        return self._free

    async def acquire(self, timeout: float) -> None:
        """Takes a slot. Raises PoolExhausted after `timeout` seconds, or at once if `max_waiting` callers wait."""
        if self._free:
            self._free -= 1
            return
        if len(self._queue) >= self._max_waiting:
            raise PoolExhausted
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._queue.append(future)
        timer = loop.call_later(timeout, self._expire, future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release()  # the slot was granted in the same turn of the event loop as the cancellation
            raise
        finally:
            timer.cancel()
            with suppress(ValueError):  # `release` has removed it already
                self._queue.remove(future)
            self.total_waits += 1

    def release(self) -> None:
        """Passes a slot to the first caller that waits, or frees it."""
        while self._queue:
            future = self._queue.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._free += 1

    def fail_waiting(self, failure: ServiceError) -> None:
        """Raises `failure` in every caller that waits."""
        for future in self._queue:
            if not future.done():
                future.set_exception(failure)

    def _expire(self, future: "asyncio.Future[None]") -> None:
        if not future.done():
            future.set_exception(PoolExhausted())
