"""The database, as domains use it: reads and transactions, wherever they are executed.

Every wait is bounded: for a connection by DB_ACQUIRE_TIMEOUT and the call's deadline, for a statement by
DB_STATEMENT_TIMEOUT on the server and by the deadline, at which the transport cancels the handler. The answer goes at
once then; the statement is cancelled behind it.
"""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg.rows import TupleRow

from vsyncd.config import Settings
from vsyncd.core.context import current_context
from vsyncd.core.errors import QueryTimeout, ServiceError
from vsyncd.observability.metrics import RETRIES
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.consistency import EARLIEST, ReadPreference, Reads, WalPosition, read_preference
from vsyncd.postgres.database_server import PRIMARY, DatabaseServer, is_down
from vsyncd.postgres.divergence import DivergenceDetector
from vsyncd.postgres.error_mapping import (
    CircuitOpen,
    CommitUnknown,
    Contention,
    DatabaseUnavailable,
    PoolExhausted,
    ReadOnlyMode,
    Retry,
    SchemaOutOfDate,
    ServerSilent,
    StorageFull,
    lost_while_committing,
    retry_decision,
    service_error,
)
from vsyncd.postgres.monitor import Monitor
from vsyncd.postgres.pool import Pool
from vsyncd.postgres.queries import queries
from vsyncd.postgres.replication_lag import WalHistory
from vsyncd.postgres.routing import Router
from vsyncd.postgres.session import Session
from vsyncd.postgres.transaction import Transaction
from vsyncd.resilience.retry import Retrier, RetryableError, RetryBudget

T = TypeVar("T")

_MARGIN = 0.02  # seconds
_EARLIEST = EARLIEST.encode()
# The migration set that every other set builds on: audit entries, request ids, jobs and partitions.
CORE_SET: Final = "core"


@dataclass(slots=True)
class _SharedState:
    """What all views of one database know."""

    # Called after each committed write that may have changed cached records; None without a cache.
    on_cached_change: Callable[[], None] | None = None
    missing_sets: frozenset[str] = frozenset()


class Database:
    """The primary and its replicas.

    `for_domain` gives a domain its view. The database itself is for what belongs to no domain: its writes change no
    cached records, and it needs the migration set `core` only.
    """

    def __init__(self, settings: Settings) -> None:
        self.schema = settings.db_schema
        self._shared = _SharedState()
        self._required_sets = frozenset({CORE_SET})
        self._changes_cached_records = False
        history = WalHistory(time.monotonic())
        self.primary = DatabaseServer(settings, PRIMARY, settings.database_hosts, history)
        self.replicas = tuple(
            DatabaseServer(settings, f"replica-{number}", (host,), history)
            for number, host in enumerate(settings.replica_hosts, 1)
        )
        self.router = Router(self.primary, self.replicas, max_lag=settings.db_replica_max_lag)
        # The calls that one lost server can take with it, twice over, may all be tried again.
        self.retrier = Retrier(
            RetryBudget(burst=2 * settings.db_max_connections), on_retry=lambda reason: RETRIES.labels(reason).inc()
        )
        self._silence = settings.db_ping_timeout
        self._queries = queries("vsyncd.postgres", settings.db_schema)
        branches = DivergenceDetector()
        self._monitors = [
            Monitor(
                target,
                branches,
                schema=settings.db_schema,
                ping_timeout=settings.db_ping_timeout,
                sweep=settings.db_health_check_interval,
            )
            for target in self.targets
        ]

    @property
    def targets(self) -> tuple[DatabaseServer, ...]:
        """Every server: the primary first."""
        return (self.primary, *self.replicas)

    @property
    def pool(self) -> Pool:
        """The primary's."""
        return self.primary.pool

    async def open(self) -> None:
        """Begin to connect, in the background: without a database the service starts all the same."""
        for target in self.targets:
            await target.open()
        for monitor in self._monitors:
            monitor.start()

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(monitor.stop() for monitor in self._monitors))
        await asyncio.gather(*(target.close() for target in self.targets))

    @asynccontextmanager
    async def connect(self, purpose: str, reads: Reads = Reads.PRIMARY, *, longest: float) -> AsyncIterator[Connection]:
        """A connection of its own, for work that is too long for the pool's. `purpose` stands in its name.

        Where it leads, the call's metadata may decide, unless `reads` is PRIMARY. The server has to end each statement
        within `longest` seconds: when it does not, or is found to hang, the connection is lost.
        """
        self._check_schema()
        connection = await self._connect(f"vsyncd {purpose}", _wish(reads), longest + self._silence)
        try:
            yield connection
        finally:
            await connection.close()

    def for_domain(self, *, migration_set: str, changes_cached_records: bool = False) -> Self:
        """Returns a view of the same database for one domain.

        Its calls raise SchemaOutOfDate while migrations of `migration_set` are missing. `changes_cached_records`: its
        writes may change records that the cache holds, so that the reads which follow must bypass the cache.
        """
        view = copy.copy(self)
        view._required_sets = frozenset({CORE_SET, migration_set})  # noqa: SLF001  an instance of this class
        view._changes_cached_records = changes_cached_records  # noqa: SLF001  as above
        return view

    def note_missing_sets(self, sets: Collection[str]) -> None:
        """Records the migration sets that the database lacks versions of."""
        self._shared.missing_sets = frozenset(sets)

    def on_cached_change(self, callback: Callable[[], None]) -> None:
        """Calls `callback` after each committed write that may have changed cached records."""
        self._shared.on_cached_change = callback

    @property
    def missing_sets(self) -> frozenset[str]:
        """The migration sets that the database lacked versions of at the last check."""
        return self._shared.missing_sets

    async def read(
        self, work: Callable[[Session], Awaitable[T]], reads: Reads = Reads.PRIMARY, *, any_schema: bool = False
    ) -> T:
        """The result of `work` on a connection in autocommit, executed again when the connection was lost.

        Where it is executed, the call's metadata may decide, unless `reads` is PRIMARY. `any_schema`: also while
        migrations are lacking.
        """
        if any_schema:
            return await self._read_as(_wish(reads), work, bounded=False)
        return await self.read_as(_wish(reads), work)

    async def read_as(
        self, wish: ReadPreference, work: Callable[[Session], Awaitable[T]], *, bounded: bool = False
    ) -> T:
        """`read`, where `wish` allows it. `bounded`: for many calls at once, which a silent server must not hold up."""
        self._check_schema()
        return await self._read_as(wish, work, bounded=bounded)

    async def _read_as(self, wish: ReadPreference, work: Callable[[Session], Awaitable[T]], *, bounded: bool) -> T:
        if not self.replicas or wish.reads is Reads.PRIMARY:
            return await self._read(self.primary, work, bounded=bounded)
        failure: ServiceError = DatabaseUnavailable()
        for target in self.router.candidates(wish):
            try:
                return await self._read(target, work, bounded=bounded)
            except ServiceError as error:
                if not (is_down(error) or (target is not self.primary and answered_elsewhere(error))):
                    raise
                failure = error
        raise failure

    async def once(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """The result of one attempt on the primary in autocommit, for many calls at once: ServerSilent soon."""
        self._check_schema()
        try:
            result = await self.primary.attempt(
                lambda connection: work(Session(connection)), wait=self._wait(), limit=self._silence
            )
        except psycopg.Error as error:
            raise service_error(error) from error
        except ServiceError as failure:
            raise self._for_a_write(failure) from failure.__cause__
        self._wrote()
        return result

    async def transaction(self, work: Callable[[Session], Awaitable[T]], *, repeatable: bool = False) -> T:
        """The result of `work` in one transaction, executed again from its begin when that can help.

        `repeatable`: the work names itself by a request_id, or looks at what is still to be done, so that it can be
        executed again even when the outcome of its commit is unknown. Otherwise that raises CommitUnknown.
        """

        async def attempt() -> T:
            token = self._token if self.replicas else None
            if token is None and self._changes_cached_records and self._shared.on_cached_change is not None:
                # Reads that bring it go past the cache.
                current_context().token = _EARLIEST
            transaction = Transaction(lambda connection: work(Session(connection)), token)
            try:
                return await self.primary.attempt(transaction.run, wait=self._wait())
            except ServerSilent as error:
                if not transaction.committing:
                    raise
                raise _commit_unknown(error, repeatable=repeatable) from error
            except psycopg.Error as error:
                if transaction.committing and lost_while_committing(error):
                    raise _commit_unknown(service_error(error), repeatable=repeatable) from error
                raise _judge(error, committing=transaction.committing) from error

        self._check_schema()
        try:
            result = await self.retrier.execute(attempt, time_left=current_context().remaining())
        except ServiceError as failure:
            raise self._for_a_write(failure) from failure.__cause__
        self._wrote()
        return result

    async def position(self, session: Session) -> WalPosition | None:
        """Where the log stands now, after a commit on this session; None when nobody needs to know."""
        if self.replicas:
            return await self._position(session.connection)
        return None if self._shared.on_cached_change is None else EARLIEST

    async def wait_for_standbys(self, session: Session) -> None:
        """Let the commit of this transaction wait for the synchronous standbys, although it may have written nothing.

        For an answer that stands on what another transaction has committed, perhaps here alone. Raises ReadOnlyMode.
        """
        row = await session.one(self._queries["wait_for_standbys"])
        if row is None or row[0] is None:
            raise ReadOnlyMode

    def _wrote(self) -> None:
        if self._changes_cached_records and self._shared.on_cached_change is not None:
            self._shared.on_cached_change()

    def _check_schema(self) -> None:
        if self._required_sets & self._shared.missing_sets:
            raise SchemaOutOfDate

    def _for_a_write(self, failure: ServiceError) -> ServiceError:
        """What a write is told when the primary is down: that reads go on, when they do."""
        if is_down(failure) and not isinstance(failure, ServerSilent) and self.router.read_only:
            return ReadOnlyMode()
        return failure

    async def _position(self, connection: Connection) -> WalPosition | None:
        try:
            row = await Session(connection).one(self._queries["position"])
        except psycopg.Error:
            row = None  # what was committed is committed
        if row is None:
            return None if self._shared.on_cached_change is None else EARLIEST  # which leads past the cache at least
        return WalPosition(timeline=row[1], lsn=row[0])

    async def _token(self, connection: Connection) -> str:
        position = await self._position(connection)
        return position.encode(past_cache=self._changes_cached_records) if position else ""

    async def _read(self, target: DatabaseServer, work: Callable[[Session], Awaitable[T]], *, bounded: bool) -> T:
        async def attempt() -> T:
            try:
                return await target.attempt(
                    lambda connection: work(Session(connection)),
                    wait=self._wait(),
                    limit=self._silence if bounded else None,
                )
            except psycopg.Error as error:
                raise (_judge(error, committing=False) if target is self.primary else service_error(error)) from error

        if target is not self.primary:
            return await attempt()
        return await self.retrier.execute(attempt, time_left=current_context().remaining())

    async def _connect(self, name: str, wish: ReadPreference, patience: float) -> Connection:
        failure: ServiceError = DatabaseUnavailable()
        for target in self.router.candidates(wish):
            try:
                return await target.lend(name, patience=patience)
            except CircuitOpen as error:
                failure = error
            except psycopg.Error as error:
                failure = service_error(error)
        raise failure

    @staticmethod
    def _wait() -> float | None:
        """How long to wait for a connection, in seconds, at the most. Raises QueryTimeout when there is no time left.

        A little less than the call has: who waited in vain is told so before his call is cancelled.
        """
        remaining = current_context().remaining()
        if remaining is None:
            return None
        if remaining <= _MARGIN:
            raise QueryTimeout
        return remaining - _MARGIN


def _wish(reads: Reads) -> ReadPreference:
    """Nothing that a caller says moves a read that has to see the primary."""
    return ReadPreference(reads) if reads is Reads.PRIMARY else read_preference(current_context(), reads)


def _commit_unknown(error: ServiceError, *, repeatable: bool) -> Exception:
    """A caller that named the mutation by a request_id may send it again, so the last `error` asks for that."""
    return RetryableError("commit_unknown", error) if repeatable else CommitUnknown()


def _judge(error: psycopg.Error, *, committing: bool) -> Exception:
    failure = service_error(error)
    if retry_decision(error, committing=committing) is Retry.TRANSACTION:
        return RetryableError(error.sqlstate or "connection_lost", failure)
    return failure


def answered_elsewhere(failure: ServiceError) -> bool:
    """Whether another server may answer a read that a replica did not.

    It may be down, it cancels what stands in the way of its replay (40001), may lack a migration yet, and may be short
    of connections, or of room to sort in; on the primary each of these but the first is the answer.
    """
    return is_down(failure) or isinstance(failure, Contention | PoolExhausted | SchemaOutOfDate | StorageFull)


def rows_of(rows: Sequence[TupleRow], column: int = 0) -> list[Any]:
    """One column of rows."""
    return [row[column] for row in rows]
