"""Exports: everything a filter asks for, from one snapshot, through a server-side cursor on connections of their own.

A long export must not take a connection from the calls that want an answer now: the exports' pool is small and theirs.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow

from vsyncd.core.errors import ResourceExhausted
from vsyncd.domains.cids.access_paths import at_path, choose_access_path, selection_parameters
from vsyncd.domains.cids.records import CidFilter
from vsyncd.observability.metrics import QUERIES
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import service_error
from vsyncd.postgres.queries import Query, queries
from vsyncd.postgres.session import Session

RECORD_ROWS: Final = 1_000
CID_ROWS: Final = 10_000
# Seconds past an export's longest duration after which the server ends it, if the service has not.
_MARGIN: Final = 60.0
_RECORD_COLUMNS: Final = (
    b"id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id, sync_status,"
    b" created_at, updated_at, synced_at, last_error, revision"
)


class Export:
    """An export under way: one snapshot, read in batches."""

    def __init__(self, cursor: "psycopg.AsyncServerCursor[TupleRow]", snapshot_time: datetime, size: int) -> None:
        self._cursor = cursor
        self._size = size
        self.snapshot_time = snapshot_time

    async def batches(self) -> AsyncGenerator[list[TupleRow]]:
        """Rows in the order of ids: whole records, or (id, cid)."""
        try:
            while rows := await self._fetch():
                yield rows
        except psycopg.Error as error:
            raise service_error(error) from error

    async def _fetch(self) -> list[TupleRow]:
        with QUERIES.timed("cids.export"):
            return await self._cursor.fetchmany(self._size)


class ExportRepository:
    """Opens exports, a bounded number at a time."""

    def __init__(self, database: Database, *, most: int) -> None:
        self._database = database
        self._queries = queries("vsyncd.domains.cids", database.schema)
        self._most = most
        self._open = 0

    @asynccontextmanager
    async def open(
        self, selection: CidFilter, *, after: UUID, cids_only: bool, max_duration: float
    ) -> AsyncIterator[Export]:
        """An export of what lies behind the id `after`. Raises ResourceExhausted (OVERLOADED) past the limit.

        No batch takes longer than `max_duration` seconds to read, however far apart its rows lie.
        """
        if self._open >= self._most:
            raise ResourceExhausted("OVERLOADED", "Too many exports at once.", retry_after=5.0)
        self._open += 1
        try:
            async with self._database.connect(
                "export", ReadMode.REPLICA_PREFERRED, statement_timeout=max_duration
            ) as connection:
                snapshot_time = await self._begin(Session(connection), max_duration)
                cursor = psycopg.AsyncServerCursor(connection, "export")
                try:
                    query = self._query(selection, cids_only=cids_only)
                    await cursor.execute(query.sql, selection_parameters(selection, after), binary=True)
                    yield Export(cursor, snapshot_time, CID_ROWS if cids_only else RECORD_ROWS)
                finally:
                    # In this order nothing is asked of the server any more: gRPC may cancel a call more than once.
                    await connection.close()
                    await cursor.close()
        except psycopg.Error as error:
            raise service_error(error) from error
        finally:
            self._open -= 1

    async def _begin(self, session: Session, max_duration: float) -> datetime:
        """The time of the snapshot that the transaction reads from now on."""
        await session.run(self._queries["begin_export"])
        limits = {"limit": f"{max_duration * 1000:.0f}", "rest": f"{(max_duration + _MARGIN) * 1000:.0f}"}
        row = await session.one(self._queries["snapshot_time"], limits)
        if row is None:
            raise AssertionError("SELECT without FROM gives a row")
        at: datetime = row[0]
        return at

    def _query(self, selection: CidFilter, *, cids_only: bool) -> Query:
        path, _ = choose_access_path(selection)
        query = at_path(self._queries["export"], path)
        return Query(query.name, query.sql.replace(b"/*COLUMNS*/", b"id, cid" if cids_only else _RECORD_COLUMNS))
