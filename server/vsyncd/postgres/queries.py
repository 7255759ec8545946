"""Named queries, and their execution on a connection, alone or in a transaction.

Each package keeps its SQL in a file `queries.sql`:

    -- name: get_by_cid
    SELECT ... FROM "vsync".cids WHERE cid = %(cid)s;

Logs and metrics contain the name, but never the SQL or its parameters. `"vsync"` is replaced by DB_SCHEMA.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg.rows import TupleRow

from vsyncd.core.context import current_context
from vsyncd.observability.metrics import QUERIES
from vsyncd.postgres.connection import Connection

T = TypeVar("T")

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


class Query(NamedTuple):
    name: str
    sql: bytes


# The queries of one package by name, in the order of the file.
Queries: TypeAlias = Mapping[str, Query]


@cache
def queries(package: str, schema: str, **fragments: str) -> Queries:
    """Returns the queries of a package, read once. A fragment replaces the comment that has its name."""
    text = files(package).joinpath("queries.sql").read_text(encoding="utf-8")
    for name, fragment in fragments.items():
        text = text.replace(f"/*{name}*/", fragment)
    parts = _NAME.split(text.replace('"vsync"', f'"{schema}"'))
    prefix = package.rsplit(".", 1)[-1]
    return {
        name: Query(f"{prefix}.{name}", sql.strip().rstrip(";").encode())
        for name, sql in zip(parts[1::2], parts[2::2], strict=True)
    }


Parameters = Mapping[str, Any] | None


class Session:
    """Executes named queries on a connection. Rows are tuples; the binary format is used in both directions."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def all(self, query: Query, parameters: Parameters = None) -> list[TupleRow]:
        cursor = await self._execute(query, parameters)
        return await cursor.fetchall()

    async def one(self, query: Query, parameters: Parameters = None) -> TupleRow | None:
        """Returns the only row, or None."""
        cursor = await self._execute(query, parameters)
        return await cursor.fetchone()

    async def single(self, query: Query, parameters: Parameters = None) -> TupleRow:
        """Returns the row of a query that always returns one, such as an aggregate."""
        row = await self.one(query, parameters)
        if row is None:
            raise AssertionError(f"{query.name} returned no row")
        return row

    async def run(self, query: Query, parameters: Parameters = None) -> int:
        """Returns the number of affected rows."""
        return (await self._execute(query, parameters)).rowcount

    async def send(self, query: Query, parameters: Parameters = None) -> psycopg.AsyncCursor[TupleRow]:
        """Sends a query in a pipeline. The cursor has the rows after the end of the pipeline."""
        return await self._execute(query, parameters)

    async def _execute(self, query: Query, parameters: Parameters) -> psycopg.AsyncCursor[TupleRow]:
        cursor = self.connection.cursor(binary=True)
        with QUERIES.timed(query.name):
            return await cursor.execute(query.sql, parameters)


class Transaction(Generic[T]):
    """One execution of `work` between BEGIN and COMMIT.

    `token` returns the call's consistency token after the commit. `committing` is true once COMMIT has been sent: an
    error after that may leave its outcome unknown.
    """

    def __init__(
        self,
        work: Callable[[Session], Awaitable[T]],
        token: Callable[[Connection], Awaitable[str]] | None,
    ) -> None:
        self._work = work
        self._token = token
        self._call = current_context()
        self.committing = False

    async def run(self, connection: Connection) -> T:
        # The isolation level is explicit: a pooler may supply a session that lacks our settings.
        await connection.execute(b"BEGIN ISOLATION LEVEL read committed")
        try:
            result = await self._work(Session(connection))
        except BaseException:
            if not connection.closed:
                await connection.rollback()
            raise
        self.committing = True
        with QUERIES.timed("postgres.commit"), connection.committing():
            await connection.execute(b"COMMIT")
        if self._token is not None:
            self._call.token = await self._token(connection)
        return result
