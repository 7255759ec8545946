"""Long reads in a snapshot: exports, scans and comparisons.

Each read has a dedicated connection, because a long read must not occupy a connection of the pool. Their number is
limited.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Final, TypeVar

import psycopg
from psycopg.rows import TupleRow

from vsyncd.core.errors import ResourceExhausted, ServiceError
from vsyncd.observability.metrics import QUERIES
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database, another_server_may_answer
from vsyncd.postgres.error_mapping import service_error
from vsyncd.postgres.queries import Parameters, Query, Session, queries

T = TypeVar("T")

# The server ends an idle transaction this long after the longest duration, in case this process hangs.
_IDLE_MARGIN_S: Final = 60.0


class Snapshot(Session):
    """A read-only transaction. `time` is the time of its snapshot."""

    __slots__ = ("time",)

    def __init__(self, connection: Connection, time: datetime) -> None:
        super().__init__(connection)
        self.time = time

    async def _execute(self, query: Query, parameters: Parameters) -> psycopg.AsyncCursor[TupleRow]:
        return await self.connection.run_or_cancel(super()._execute(query, parameters))

    async def stream(self, query: Query, parameters: Parameters, *, block_rows: int) -> AsyncGenerator[list[TupleRow]]:
        """Yields the rows of a query in blocks, which a server-side cursor reads."""
        cursor: psycopg.AsyncServerCursor[TupleRow] = psycopg.AsyncServerCursor(self.connection, "snapshot")
        try:
            await self.connection.run_or_cancel(cursor.execute(query.sql, parameters, binary=True))
            while True:
                with QUERIES.timed(query.name):
                    rows = await self.connection.run_or_cancel(cursor.fetchmany(block_rows))
                if not rows:
                    break
                yield rows
            await cursor.close()
        except BaseException:
            # Closing the cursor then sends no statement: gRPC may cancel a call more than once.
            await self.connection.close()
            await cursor.close()
            raise


class SnapshotReader:
    """Executes long reads of one kind, at most `max_concurrent` at a time.

    `max_duration` is in seconds. No statement of a read takes longer.
    """

    def __init__(self, database: Database, kind: str, *, max_concurrent: int, max_duration: float) -> None:
        self._database = database
        self._queries = queries("vsyncd.postgres", database.schema)
        self._kind = kind
        self._max_concurrent = max_concurrent
        self._max_duration = max_duration
        self._active = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Occupies one of the slots and returns its deadline, a time of the event loop's clock.

        Raises ResourceExhausted (OVERLOADED) if no slot is free.
        """
        if self._active >= self._max_concurrent:
            raise ResourceExhausted("OVERLOADED", f"Too many {self._kind} at once.", retry_after=5.0)
        self._active += 1
        try:
            yield asyncio.get_running_loop().time() + self._max_duration
        finally:
            self._active -= 1

    async def read(self, purpose: str, work: Callable[[Snapshot], Awaitable[T]]) -> T:
        """Returns the result of `work`, executed as by `stream`."""

        async def results(snapshot: Snapshot) -> AsyncGenerator[T]:
            yield await work(snapshot)

        async with aclosing(self.stream(purpose, results)) as found:
            return await anext(found)

    async def stream(self, purpose: str, work: Callable[[Snapshot], AsyncGenerator[T]]) -> AsyncGenerator[T]:
        """Yields the items of `work`, executed in a snapshot on a replica, or on the primary if there is no replica.

        `purpose` becomes part of the connection's application_name. A replica cancels queries that conflict with
        recovery: if it fails before the first item, `work` is executed again on the primary.
        """
        yielded = False
        for mode in (ReadMode.REPLICA_PREFERRED, ReadMode.PRIMARY):
            try:
                async with self._open(purpose, mode) as snapshot, aclosing(work(snapshot)) as items:
                    async for item in items:
                        yielded = True
                        yield item
            except ServiceError as failure:
                on_replica = mode is ReadMode.REPLICA_PREFERRED and self._database.replicas
                if yielded or not (on_replica and another_server_may_answer(failure)):
                    raise
            else:
                return

    @asynccontextmanager
    async def _open(self, purpose: str, mode: ReadMode) -> AsyncIterator[Snapshot]:
        try:
            async with self._database.connect(purpose, mode, statement_timeout=self._max_duration) as connection:
                session = Session(connection)
                await session.run(self._queries["begin_snapshot"])
                limits = {
                    "statement_timeout": f"{self._max_duration * 1_000:.0f}",
                    "idle_timeout": f"{(self._max_duration + _IDLE_MARGIN_S) * 1_000:.0f}",
                }
                row = await session.single(self._queries["snapshot_time"], limits)
                yield Snapshot(connection, row[0])
        except psycopg.Error as error:
            raise service_error(error) from error
