"""The connections to one server that calls share.

psycopg's pool makes, keeps and replaces them. In front of it stands a line of our own (permits.py), and behind it a
look at each connection before it is used: a server that was restarted costs nobody a failed statement for each
connection that it ended.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from vsyncd.config import Settings
from vsyncd.core.errors import ServiceError
from vsyncd.postgres.connection import Connection, Connector
from vsyncd.postgres.connection_limiter import ConnectionLimiter
from vsyncd.postgres.error_mapping import DatabaseUnavailable

# Seconds. psycopg's pool begins to make a connection when somebody begins to wait for one: who waits on begins anew so
# often. And it gives up after _RECONNECT: who waits is told by the breaker, and nobody connects for nobody.
_TURN: Final = 0.25
_RECONNECT: Final = 0.1
# Those in line, for each connection that there may be.
_LINE: Final = 10

_holding: ContextVar[str | None] = ContextVar("vsyncd_holds_connection", default=None)


class NestedCheckout(AssertionError):  # noqa: N818  a defect, named for what happened
    """A defect: who holds a connection asked for another. All who did so at once would wait for each other forever."""


class Pool:
    """A bounded number of connections, and a bounded line of those who wait for one."""

    def __init__(self, settings: Settings, connector: Connector, *, name: str) -> None:
        self.name = name
        self._permits = ConnectionLimiter(
            most=settings.db_max_connections, most_waiting=_LINE * settings.db_max_connections
        )
        self._ping_timeout = settings.db_ping_timeout
        self._dismissals = 0
        self.leased = 0
        self._requests = self._errors = self._further_turns = 0
        self._waited_seconds = 0.0
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            connector.conninfo,
            connection_class=Connection,
            kwargs={"connector": connector},
            min_size=settings.db_min_connections,
            max_size=settings.db_max_connections,
            open=False,
            name=name,
            max_lifetime=settings.db_connection_max_lifetime,
            max_idle=settings.db_connection_max_idle_time,
            reconnect_timeout=_RECONNECT,
        )

    async def open(self) -> None:
        """Begin to connect, in the background."""
        await self._pool.open(wait=False)

    async def wait(self, seconds: float = 30.0) -> None:
        """Until the least number of connections is there. Raises psycopg_pool.PoolTimeout."""
        await self._pool.wait(seconds)

    async def close(self) -> None:
        """Close every connection, and send away who waits for one."""
        self.dismiss(DatabaseUnavailable())
        await self._pool.close()

    @property
    def in_use(self) -> bool:
        """Whether there is a connection at all."""
        return self.leased > 0 or self._pool.get_stats().get("pool_available", 0) > 0

    def get_stats(self) -> Mapping[str, int]:
        """What psycopg_pool counts (its manual, "Pool stats"); of requests what is ours: to it each turn is one."""
        stats: dict[str, Any] = self._pool.get_stats()
        queued = stats.get("requests_queued", 0) - self._further_turns
        return {
            **stats,
            "requests_num": self._requests,
            "requests_waiting": stats.get("requests_waiting", 0) + self._permits.waiting,
            "requests_queued": queued + self._permits.waited,
            "requests_wait_ms": round(self._waited_seconds * 1000),
            "requests_errors": self._errors,
        }

    async def acquire(self, seconds: float) -> Connection:
        """A connection that was alive a moment ago; to be given back with `release`.

        Raises PoolExhausted when all are in use for that long, DatabaseUnavailable when none could be made.
        """
        self._requests += 1
        began = time.monotonic()
        try:
            return await self._acquire(seconds)
        except ServiceError:
            self._errors += 1
            raise
        finally:
            self._waited_seconds += time.monotonic() - began

    async def _acquire(self, seconds: float) -> Connection:
        if (held := _holding.get()) is not None:
            raise NestedCheckout(f"{self.name}, while holding one to {held}")
        deadline = asyncio.get_running_loop().time() + seconds
        await self._permits.acquire(seconds)
        try:
            connection = await self._take(deadline)
        except BaseException:
            self._permits.release()
            raise
        self.leased += 1
        _holding.set(self.name)
        return connection

    async def release(self, connection: Connection) -> None:
        """Give it back, whatever its state. In the context that acquired it."""
        _holding.set(None)
        self.leased -= 1
        try:
            await self._pool.putconn(connection)
        finally:
            self._permits.release()

    async def drain(self) -> None:
        """Trust no connection that there is: the idle ones are closed now, the others when they are given back."""
        await self._pool.drain()

    def dismiss(self, failure: ServiceError) -> None:
        """Send away everyone who waits, at once or in a turn: the server does not answer."""
        self._permits.dismiss(failure)
        self._dismissals += 1

    async def sweep(self) -> None:
        """Ask over each idle connection whether the server is there, one after the other, and drop those that fail."""
        for _ in range(self._pool.get_stats().get("pool_available", 0)):
            try:
                connection = await self._acquire(_TURN)
            except ServiceError:
                return  # there is nothing idle any more
            try:
                async with asyncio.timeout(self._ping_timeout):
                    await connection.execute(b"")
            except (psycopg.Error, TimeoutError):
                await connection.close()
            finally:
                await self.release(connection)

    async def warm(self, seconds: float) -> None:
        """Begin to fill up to the least number of connections again, after an outage."""
        with suppress(ServiceError):  # who comes next begins again
            await self.release(await self._acquire(seconds))

    async def _take(self, deadline: float) -> Connection:
        loop = asyncio.get_running_loop()
        dismissals, in_vain = self._dismissals, False
        while dismissals == self._dismissals and (left := deadline - loop.time()) > 0:
            self._further_turns += in_vain
            try:
                connection = await self._pool.getconn(timeout=min(_TURN, left))
            except PoolTimeout:
                in_vain = True
                continue
            except PoolClosed as error:
                raise DatabaseUnavailable from error
            in_vain = False
            if connection.alive():
                return connection
            await connection.close()
            await self._pool.putconn(connection)
        raise DatabaseUnavailable
