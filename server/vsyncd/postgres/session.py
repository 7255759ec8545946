"""A connection in use, as domains see it."""

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from vsyncd.observability.metrics import QUERIES
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.queries import Query

Parameters = Mapping[str, Any] | None


class Session:
    """Executes named queries on a connection; rows are tuples, in binary both ways."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def all(self, query: Query, parameters: Parameters = None) -> list[TupleRow]:
        """Every row."""
        cursor = await self._execute(query, parameters)
        return await cursor.fetchall()

    async def one(self, query: Query, parameters: Parameters = None) -> TupleRow | None:
        """The only row, or None."""
        cursor = await self._execute(query, parameters)
        return await cursor.fetchone()

    async def single(self, query: Query, parameters: Parameters = None) -> TupleRow:
        """Returns the row of a query that always returns one, such as an aggregate."""
        row = await self.one(query, parameters)
        if row is None:
            raise AssertionError(f"{query.name} returned no row")
        return row

    async def run(self, query: Query, parameters: Parameters = None) -> int:
        """No rows; how many were touched."""
        return (await self._execute(query, parameters)).rowcount

    async def _execute(self, query: Query, parameters: Parameters) -> psycopg.AsyncCursor[TupleRow]:
        cursor = self.connection.cursor(binary=True)
        with QUERIES.timed(query.name):
            return await cursor.execute(query.sql, parameters)
