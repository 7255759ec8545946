"""The pool of connections to the primary, and transactions over it.

Every wait here is bounded: for a connection by DB_ACQUIRE_TIMEOUT and the call's deadline, for a statement by
DB_STATEMENT_TIMEOUT on the server and by the deadline, at which the transport cancels the handler and psycopg cancels
the statement.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from vsyncd.call import current_call
from vsyncd.config import Settings
from vsyncd.metrics import QUERIES
from vsyncd.postgres.failures import (
    CommitUnknown,
    QueryTimeout,
    Retry,
    failure_of,
    lost_while_committing,
    retry_of,
)
from vsyncd.postgres.queries import Query

T = TypeVar("T")
Connection = AsyncConnection[TupleRow]
Parameters = Mapping[str, Any] | None

_ATTEMPTS = 4
_MARGIN = 0.02  # seconds


class Session:
    """A connection in use: named queries, rows as tuples, in binary both ways."""

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

    async def run(self, query: Query, parameters: Parameters = None) -> int:
        """No rows; how many were touched."""
        return (await self._execute(query, parameters)).rowcount

    async def _execute(self, query: Query, parameters: Parameters) -> psycopg.AsyncCursor[TupleRow]:
        cursor = self.connection.cursor(binary=True)
        with QUERIES.timed(query.name):
            return await cursor.execute(query.sql, parameters)


class _Again(Exception):  # noqa: N818  it starts a transaction anew, nothing more
    """Inside this module: the transaction was rolled back, and executing it again can help."""


class Database:
    """The primary."""

    def __init__(self, settings: Settings) -> None:
        self.schema = settings.db_schema
        # A function: a password in a file is read again for each new connection.
        self._conninfo = settings.database_conninfo
        self._acquire_timeout = settings.db_acquire_timeout
        self._statement_timeout = settings.db_statement_timeout
        self.pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._conninfo,
            min_size=settings.db_min_connections,
            max_size=settings.db_max_connections,
            open=False,
            name="primary",
            timeout=settings.db_acquire_timeout,
            max_waiting=10 * settings.db_max_connections,
            max_lifetime=settings.db_connection_max_lifetime,
            max_idle=settings.db_connection_max_idle_time,
            reconnect_timeout=10,
            configure=self._configure,
            check=None,
            kwargs={"autocommit": True},
        )

    async def _configure(self, connection: Connection) -> None:
        """Session defaults of a new connection. A pooler may drop them: they are a second fence, not the first."""
        await connection.execute(
            b"SELECT set_config('statement_timeout', %s, false), set_config('timezone', 'UTC', false),"
            b" set_config('idle_in_transaction_session_timeout', %s, false)",
            (f"{self._statement_timeout * 1000:.0f}", f"{self._statement_timeout * 2000:.0f}"),
        )

    async def open(self) -> None:
        """Begin to connect, in the background: without a database the service starts all the same."""
        await self.pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        await self.pool.close()

    @asynccontextmanager
    async def connect(self, purpose: str) -> AsyncIterator[Connection]:
        """A connection of its own, for work that is too long for the pool's. `purpose` stands in its name."""
        connection = await AsyncConnection.connect(
            self._conninfo(), autocommit=True, application_name=f"vsyncd {purpose}"
        )
        try:
            await self._configure(connection)
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A connection in autocommit. Raises Failure's leaves for what goes wrong with the database."""
        try:
            async with self.pool.connection(timeout=self._wait()) as connection:
                yield Session(connection)
        except psycopg.Error as error:
            raise failure_of(error) from error

    async def read(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """The result of `work` on a connection in autocommit, executed again when the connection was lost."""

        async def attempt() -> T:
            try:
                async with self.pool.connection(timeout=self._wait()) as connection:
                    return await work(Session(connection))
            except psycopg.Error as error:
                raise self._judge(error, committing=False) from error

        return await self._retrying(attempt)

    async def transaction(self, work: Callable[[Session], Awaitable[T]], *, repeatable: bool = False) -> T:
        """The result of `work` in one transaction, executed again from its begin when that can help.

        `repeatable`: the work names itself by a request_id, so that it can be executed again even when the outcome of
        its commit is unknown. Otherwise that raises CommitUnknown.
        """

        async def attempt() -> T:
            committing = False
            try:
                async with self.pool.connection(timeout=self._wait()) as connection:
                    await connection.execute(b"BEGIN")
                    try:
                        result = await work(Session(connection))
                    except BaseException:
                        if not connection.closed:
                            await connection.rollback()
                        raise
                    committing = True
                    with QUERIES.timed("postgres.commit"):
                        await connection.execute(b"COMMIT")
                    return result
            except psycopg.Error as error:
                if committing and lost_while_committing(error):
                    raise (_Again() if repeatable else CommitUnknown()) from error
                raise self._judge(error, committing=committing) from error

        return await self._retrying(attempt)

    def _wait(self) -> float:
        """How long to wait for a connection, in seconds. Raises QueryTimeout when there is no time left.

        A little less than the call has: the pool's own timeout comes before the call is cancelled, since a wait that is
        cancelled can lose a connection (psycopg#1413) or fail on the pool's lock on Python 3.11.
        """
        remaining = current_call().remaining()
        if remaining is None:
            return self._acquire_timeout
        if remaining <= _MARGIN:
            raise QueryTimeout
        return min(self._acquire_timeout, remaining - _MARGIN)

    @staticmethod
    def _judge(error: psycopg.Error, *, committing: bool) -> Exception:
        if retry_of(error, committing=committing) is Retry.TRANSACTION:
            return _Again()
        return failure_of(error)

    @staticmethod
    async def _retrying(attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await attempt()  # nearly always enough: tenacity's machinery is for the rest
        except _Again as again:
            last: _Again = again
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Again),
            stop=stop_after_attempt(_ATTEMPTS - 1),
            wait=wait_random_exponential(multiplier=0.02, max=0.5),
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except _Again as again:
            last = again
        cause = last.__cause__
        raise failure_of(cause) if isinstance(cause, psycopg.Error) else last from cause


def rows_of(rows: Sequence[TupleRow], column: int = 0) -> list[Any]:
    """One column of rows."""
    return [row[column] for row in rows]
