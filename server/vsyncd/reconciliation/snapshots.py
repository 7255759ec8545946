"""Work that takes long and reads much: on connections of its own, each in one snapshot, a bounded number at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import psycopg

from vsyncd.errors import ResourceExhausted
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.consistency import Reads
from vsyncd.postgres.database import Database, Session
from vsyncd.postgres.failures import failure_of
from vsyncd.postgres.queries import queries


class Snapshot(Session):
    """A read-only transaction that sees one moment: `at`."""

    __slots__ = ("at",)

    def __init__(self, connection: Connection, at: datetime) -> None:
        super().__init__(connection)
        self.at = at


class Snapshots:
    """Gives places to long work, and opens snapshots for it. `max_duration` is in seconds."""

    def __init__(self, database: Database, *, most: int, max_duration: float) -> None:
        self._database = database
        self._queries = queries("vsyncd.reconciliation", database.schema)
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

    @asynccontextmanager
    async def open(self, purpose: str) -> AsyncIterator[Snapshot]:
        """A snapshot on a replica when there is one; what is under way in it is cancelled when it is left."""
        try:
            longest = self._max_duration
            async with self._database.connect(purpose, Reads.MANY, longest=longest) as connection:
                session = Session(connection)
                await session.run(self._queries["begin_snapshot"])
                row = await session.one(self._queries["snapshot_time"], {"limit": f"{longest * 1000:.0f}"})
                if row is None:
                    raise AssertionError("SELECT without FROM gives a row")
                yield Snapshot(connection, row[0])
        except psycopg.Error as error:
            raise failure_of(error) from error
