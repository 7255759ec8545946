"""Work that takes long and reads much: on connections of its own, each in one snapshot, a bounded number at a time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import TypeVar

import psycopg

from vsyncd.core.errors import ResourceExhausted, ServiceError
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database, another_server_may_answer
from vsyncd.postgres.error_mapping import service_error
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session

T = TypeVar("T")


class ReadSnapshot(Session):
    """A read-only transaction that sees one moment: `at`."""

    __slots__ = ("at",)

    def __init__(self, connection: Connection, at: datetime) -> None:
        super().__init__(connection)
        self.at = at


class ReadSnapshots:
    """Gives places to long work, and opens snapshots for it. `max_duration` is in seconds."""

    def __init__(self, database: Database, *, most: int, max_duration: float) -> None:
        self._database = database
        self._queries = queries("vsyncd.domains.reconciliation", database.schema)
        self._most = most
        self._max_duration = max_duration
        self._taken = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[float]:
        """One of the places, and the time of the loop's clock at which it has to be free again. Raises OVERLOADED."""
        if self._taken >= self._most:
            raise ResourceExhausted("OVERLOADED", "Too many comparisons and scans at once.", retry_after=5.0)
        self._taken += 1
        try:
            yield asyncio.get_running_loop().time() + self._max_duration
        finally:
            self._taken -= 1

    async def read(self, purpose: str, work: Callable[[ReadSnapshot], Awaitable[T]]) -> T:
        """The result of `work` in a snapshot, as `stream` opens it."""

        async def once(snapshot: ReadSnapshot) -> AsyncGenerator[T]:
            yield await work(snapshot)

        async with aclosing(self.stream(purpose, once)) as results:
            return await anext(results)

    async def stream(self, purpose: str, work: Callable[[ReadSnapshot], AsyncGenerator[T]]) -> AsyncGenerator[T]:
        """What `work` gives in a snapshot, on a replica when there is one. Closing it cancels what is under way.

        A replica cancels what stands in the way of its replay. Where nothing was given yet, the primary begins anew.
        """
        given = False
        try:
            async with aclosing(self._stream(purpose, work, ReadMode.REPLICA_PREFERRED)) as results:
                async for result in results:
                    given = True
                    yield result
        except ServiceError as failure:
            if given or not (self._database.replicas and another_server_may_answer(failure)):
                raise
        else:
            return
        async with aclosing(self._stream(purpose, work, ReadMode.PRIMARY)) as results:
            async for result in results:
                yield result

    async def _stream(
        self, purpose: str, work: Callable[[ReadSnapshot], AsyncGenerator[T]], mode: ReadMode
    ) -> AsyncGenerator[T]:
        async with self._open(purpose, mode) as snapshot, aclosing(work(snapshot)) as results:
            async for result in results:
                yield result

    @asynccontextmanager
    async def _open(self, purpose: str, mode: ReadMode) -> AsyncIterator[ReadSnapshot]:
        longest = self._max_duration
        try:
            async with self._database.connect(purpose, mode, statement_timeout=longest) as connection:
                session = Session(connection)
                await session.run(self._queries["begin_snapshot"])
                row = await session.one(self._queries["snapshot_time"], {"limit": f"{longest * 1000:.0f}"})
                if row is None:
                    raise AssertionError("SELECT without FROM gives a row")
                yield ReadSnapshot(connection, row[0])
        except psycopg.Error as error:
            raise service_error(error) from error
