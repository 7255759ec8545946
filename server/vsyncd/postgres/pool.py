"""The connection pool of one server.

psycopg's pool creates, keeps and replaces connections. A ConnectionLimiter in front of it queues callers in FIFO order,
and every connection is checked before it is used: after a server restart no statement fails on a connection that the
server has closed.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from vsyncd.config import Settings
from vsyncd.core.errors import ServiceError
from vsyncd.postgres.connection import Connection, Connector
from vsyncd.postgres.error_mapping import DatabaseUnavailable, PoolExhausted

# psycopg's pool starts to connect when a caller starts to wait. A caller that still waits retries this often.
_GETCONN_TIMEOUT_S: Final = 0.25
# psycopg's pool stops retrying to connect after this time. Callers that still wait make it start again.
_RECONNECT_TIMEOUT_S: Final = 0.1
_MAX_WAITING_PER_CONNECTION: Final = 10
_checked_out: ContextVar[str | None] = ContextVar("vsyncd_checked_out_connection", default=None)


class ConnectionLimiter:
    """A fair semaphore with one slot for each connection of the pool.

    A caller with a slot waits only for its connection to be established. This distinguishes an exhausted pool from a
    pool that is filling or whose server is down.
    """

    def __init__(self, *, max_connections: int, max_waiting: int) -> None:
        self.free = max_connections
        self._max_waiting = max_waiting
        self._queue: deque[asyncio.Future[None]] = deque()
        self.total_waits = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def acquire(self, timeout: float) -> None:
        """Takes a slot. Raises PoolExhausted after `timeout` seconds, or at once if `max_waiting` callers wait."""
        if self.free:
            self.free -= 1
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
        self.free += 1

    def fail_waiting(self, failure: ServiceError) -> None:
        """Raises `failure` in every caller that waits."""
        for future in self._queue:
            if not future.done():
                future.set_exception(failure)

    def _expire(self, future: "asyncio.Future[None]") -> None:
        if not future.done():
            future.set_exception(PoolExhausted())


class _CountingPool(AsyncConnectionPool[Connection]):
    """psycopg's pool, which also counts why it closes connections. It has no public hook for that."""

    closed_by_idle_time = closed_by_lifetime = 0
    _shrinker: "asyncio.Task[Any] | None" = None

    async def _shrink_pool(self) -> None:
        self._shrinker = asyncio.current_task()
        try:
            await super()._shrink_pool()
        finally:
            self._shrinker = None

    async def _close_connection(self, conn: Connection) -> None:
        if self._shrinker is not None and asyncio.current_task() is self._shrinker:
            self.closed_by_idle_time += 1
        elif conn._expire_at <= time.monotonic():  # noqa: SLF001 - see above
            self.closed_by_lifetime += 1
        await super()._close_connection(conn)


class NestedCheckout(AssertionError):  # noqa: N818  a defect, named for what happened
    """A task that holds a connection asked for another. Tasks that do this concurrently can deadlock."""


class Pool:
    """A bounded number of connections with a bounded queue of waiting callers."""

    def __init__(self, settings: Settings, connector: Connector, *, name: str) -> None:
        self.name = name
        self._limiter = ConnectionLimiter(
            max_connections=settings.db_max_connections,
            max_waiting=_MAX_WAITING_PER_CONNECTION * settings.db_max_connections,
        )
        self._ping_timeout = settings.db_ping_timeout
        self._failed_waits = 0
        self.in_use = 0
        self._requests = self._errors = self._repeated_getconns = 0
        self._waited_seconds = 0.0
        self._pool = _CountingPool(
            connector.conninfo,
            connection_class=Connection,
            kwargs={"connector": connector},
            min_size=settings.db_min_connections,
            max_size=settings.db_max_connections,
            open=False,
            name=name,
            max_lifetime=settings.db_connection_max_lifetime,
            max_idle=settings.db_connection_max_idle_time,
            reconnect_timeout=_RECONNECT_TIMEOUT_S,
        )

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def wait(self, timeout: float = 30.0) -> None:
        """Waits until the minimum number of connections is open. Raises psycopg_pool.PoolTimeout."""
        await self._pool.wait(timeout)

    async def close(self) -> None:
        """Fails waiting callers with DatabaseUnavailable and closes every connection."""
        self.fail_waiting(DatabaseUnavailable())
        await self._pool.close()

    @property
    def is_connected(self) -> bool:
        return self.in_use > 0 or self._pool.get_stats().get("pool_available", 0) > 0

    def get_stats(self) -> Mapping[str, int]:
        """Returns psycopg_pool's counters (its manual, "Pool stats").

        The request counters are our own: psycopg_pool would count each repeated getconn as a request.
        """
        stats: dict[str, Any] = self._pool.get_stats()
        queued = stats.get("requests_queued", 0) - self._repeated_getconns
        return {
            **stats,
            "requests_num": self._requests,
            "requests_waiting": stats.get("requests_waiting", 0) + self._limiter.waiting,
            "requests_queued": queued + self._limiter.total_waits,
            "requests_wait_ms": round(self._waited_seconds * 1000),
            "requests_errors": self._errors,
            "closed_by_idle_time": self._pool.closed_by_idle_time,
            "closed_by_lifetime": self._pool.closed_by_lifetime,
        }

    async def acquire(self, timeout: float) -> Connection:
        """Checks out a connection that was alive a moment ago. Return it with `release` in the same context.

        Raises PoolExhausted if all are in use for `timeout` seconds, DatabaseUnavailable if none could be opened.
        """
        self._requests += 1
        began = time.monotonic()
        try:
            return await self._acquire(timeout)
        except ServiceError:
            self._errors += 1
            raise
        finally:
            self._waited_seconds += time.monotonic() - began

    async def _acquire(self, timeout: float) -> Connection:
        if (held := _checked_out.get()) is not None:
            raise NestedCheckout(f"{self.name}, while holding one to {held}")
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            await self._limiter.acquire(timeout)
        except PoolExhausted as error:
            if self.is_connected:
                raise
            raise DatabaseUnavailable from error  # those who have the slots wait for connections, too
        try:
            connection = await self._get_alive(deadline)
        except BaseException:
            self._limiter.release()
            raise
        self.in_use += 1
        _checked_out.set(self.name)
        return connection

    async def release(self, connection: Connection) -> None:
        """Returns a connection, whatever its state."""
        _checked_out.set(None)
        self.in_use -= 1
        try:
            await self._pool.putconn(connection)
        finally:
            self._limiter.release()

    async def drain(self) -> None:
        """Replaces every connection: idle ones now, the others when they are returned."""
        await self._pool.drain()

    def fail_waiting(self, failure: ServiceError) -> None:
        """Fails the callers that wait: those in the queue with `failure`, the others with DatabaseUnavailable."""
        self._limiter.fail_waiting(failure)
        self._failed_waits += 1

    async def ping_idle(self) -> None:
        """Pings each idle connection, one after the other, and closes those that fail."""
        for _ in range(self._pool.get_stats().get("pool_available", 0)):
            try:
                connection = await self._acquire(_GETCONN_TIMEOUT_S)
            except ServiceError:
                return  # no idle connections are left
            try:
                async with asyncio.timeout(self._ping_timeout):
                    await connection.execute(b"")
            except (psycopg.Error, TimeoutError):
                await connection.close()
            finally:
                await self.release(connection)

    async def warm_up(self, timeout: float) -> None:
        """Starts to open the minimum number of connections again, after an outage."""
        with suppress(ServiceError):  # the next caller tries again
            await self.release(await self._acquire(timeout))

    async def _get_alive(self, deadline: float) -> Connection:
        loop = asyncio.get_running_loop()
        failed_waits, repeated = self._failed_waits, False
        while failed_waits == self._failed_waits and (left := deadline - loop.time()) > 0:
            self._repeated_getconns += repeated
            try:
                connection = await self._pool.getconn(timeout=min(_GETCONN_TIMEOUT_S, left))
            except PoolTimeout:
                repeated = True
                continue
            except PoolClosed as error:
                raise DatabaseUnavailable from error
            repeated = False
            if connection.is_alive():
                return connection
            await connection.close()
            await self._pool.putconn(connection)
        raise DatabaseUnavailable
