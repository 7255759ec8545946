"""Executes reads and transactions on the primary and its replicas.

Every wait is bounded. The wait for a connection is bounded by DB_ACQUIRE_TIMEOUT and the call's deadline. A statement
is bounded by DB_STATEMENT_TIMEOUT on the server and by the deadline, at which the transport cancels the handler. The
caller is then answered at once, and the statement is cancelled afterwards.
"""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Self, TypeVar

import psycopg

from vsyncd.config import Settings
from vsyncd.core.context import current_context
from vsyncd.core.errors import QueryTimeout, ServiceError
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.consistency import WAL_START, ReadMode, ReadPreference, WalPosition, read_preference
from vsyncd.postgres.database_server import PRIMARY, DatabaseServer, is_down
from vsyncd.postgres.error_mapping import (
    CircuitOpen,
    CommitUnknown,
    ConstraintErrors,
    Contention,
    DatabaseUnavailable,
    PoolExhausted,
    ReadOnlyMode,
    SchemaOutOfDate,
    ServerSilent,
    StorageFull,
    constraint_error,
    lost_while_committing,
    may_retry,
    service_error,
)
from vsyncd.postgres.monitor import Monitor
from vsyncd.postgres.pool import Pool
from vsyncd.postgres.queries import Session, Transaction, queries
from vsyncd.postgres.replication import DivergenceDetector, WalHistory
from vsyncd.postgres.routing import Router
from vsyncd.resilience.retry import Retrier, RetryableError, RetryBudget

T = TypeVar("T")

# Subtracted from the deadline, so that a failed wait is reported before the call is cancelled.
_DEADLINE_MARGIN_S: Final = 0.02
_WAL_START_TOKEN: Final = WAL_START.encode()
# The migration set that every other set builds on: audit entries, request ids, jobs and partitions.
CORE_SET: Final = "core"


@dataclass(slots=True)
class _SharedState:
    """The state that all views of one database share."""

    # Called after each committed write that may have changed cached records; None without a cache.
    on_cached_change: Callable[[], None] | None = None
    missing_sets: frozenset[str] = frozenset()


class Database:
    """The primary and its replicas.

    Each domain uses a view (`for_domain`). The database itself is for what belongs to no domain: its writes change no
    cached records, and it needs the migration set `core` only.
    """

    def __init__(self, settings: Settings) -> None:
        self.schema = settings.db_schema
        self._shared = _SharedState()
        self._required_sets = frozenset({CORE_SET})
        self._changes_cached_records = False
        wal_history = WalHistory(time.monotonic())
        self.primary = DatabaseServer(settings, PRIMARY, settings.database_hosts, wal_history)
        self.replicas = tuple(
            DatabaseServer(settings, f"replica-{number}", (host,), wal_history)
            for number, host in enumerate(settings.replica_hosts, 1)
        )
        self.router = Router(self.primary, self.replicas, max_lag=settings.db_replica_max_lag)
        # Twice the calls that the loss of one server can interrupt may be retried.
        self.retrier = Retrier(RetryBudget(burst=2 * settings.db_max_connections))
        self._ping_timeout = settings.db_ping_timeout
        self._queries = queries("vsyncd.postgres", settings.db_schema)
        divergence = DivergenceDetector()
        self._monitors = [
            Monitor(
                server,
                divergence,
                schema=settings.db_schema,
                ping_timeout=settings.db_ping_timeout,
                idle_check_interval=settings.db_health_check_interval,
            )
            for server in self.servers
        ]

    @property
    def servers(self) -> tuple[DatabaseServer, ...]:
        """Every server, the primary first."""
        return (self.primary, *self.replicas)

    @property
    def pool(self) -> Pool:
        return self.primary.pool

    async def open(self) -> None:
        """Starts to connect in the background. The service also starts without a database."""
        for server in self.servers:
            await server.pool.open()
        for monitor in self._monitors:
            monitor.start()

    async def close(self) -> None:
        await asyncio.gather(*(monitor.stop() for monitor in self._monitors))
        await asyncio.gather(*(server.close() for server in self.servers))

    @asynccontextmanager
    async def connect(
        self, purpose: str, mode: ReadMode = ReadMode.PRIMARY, *, statement_timeout: float
    ) -> AsyncIterator[Connection]:
        """Opens a dedicated connection, for work that takes too long for the pool. `purpose` is part of its name.

        The call's metadata may override `mode`, unless it is PRIMARY. The caller ensures that the server ends each
        statement within `statement_timeout` seconds. The connection is lost if the server takes longer or hangs.
        """
        self._require_schema()
        connection = await self._connect(
            f"vsyncd {purpose}", _preference(mode), response_timeout=statement_timeout + self._ping_timeout
        )
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

    @property
    def missing_sets(self) -> frozenset[str]:
        """The migration sets that the database lacked versions of at the last check."""
        return self._shared.missing_sets

    def on_cached_change(self, callback: Callable[[], None]) -> None:
        """Calls `callback` after each committed write that may have changed cached records."""
        self._shared.on_cached_change = callback

    async def read(
        self,
        work: Callable[[Session], Awaitable[T]],
        where: ReadMode | ReadPreference = ReadMode.PRIMARY,
        *,
        fail_fast: bool = False,
        allow_outdated_schema: bool = False,
    ) -> T:
        """Returns the result of `work` in autocommit mode. Retries after a lost connection.

        The call's metadata may override a ReadMode other than PRIMARY. `fail_fast`: give up on a server that does not
        answer within DB_PING_TIMEOUT, for work that serves many calls.
        """
        preference = _preference(where) if isinstance(where, ReadMode) else where
        if not allow_outdated_schema:
            self._require_schema()
        if not self.replicas or preference.mode is ReadMode.PRIMARY:
            return await self._read_from(self.primary, work, fail_fast=fail_fast)
        failure: ServiceError = DatabaseUnavailable()
        for server in self.router.candidates(preference):
            try:
                return await self._read_from(server, work, fail_fast=fail_fast)
            except ServiceError as error:
                if not (is_down(error) or (server is not self.primary and another_server_may_answer(error))):
                    raise
                failure = error
        raise failure

    async def execute_once(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Returns the result of one attempt on the primary in autocommit mode, for work that serves many calls.

        Raises ServerSilent if the server does not answer within DB_PING_TIMEOUT.
        """
        self._require_schema()
        try:
            result = await self.primary.execute(
                lambda connection: work(Session(connection)),
                acquire_timeout=_acquire_timeout(),
                response_timeout=self._ping_timeout,
            )
        except psycopg.Error as error:
            raise service_error(error) from error
        except ServiceError as failure:
            raise self._write_failure(failure) from failure.__cause__
        self._notify_commit()
        return result

    async def transaction(
        self,
        work: Callable[[Session], Awaitable[T]],
        *,
        repeatable: bool = False,
        constraint_errors: ConstraintErrors | None = None,
    ) -> T:
        """Returns the result of `work` in one transaction. Retries the transaction if that can help.

        `repeatable`: the work is identified by a request_id, or checks what remains to be done, so it can also be
        executed again after a commit with unknown outcome. Otherwise such a commit raises CommitUnknown.
        `constraint_errors` has the error to raise for a violated constraint, by its name.
        """

        async def attempt() -> T:
            token = self.token if self.replicas else None
            if token is None and self._changes_cached_records and self._shared.on_cached_change is not None:
                # Reads that send this token bypass the cache.
                current_context().token = _WAL_START_TOKEN
            transaction = Transaction(work, token)
            try:
                return await self.primary.execute(transaction.run, acquire_timeout=_acquire_timeout())
            except ServerSilent as error:
                if not transaction.committing:
                    raise
                raise _commit_unknown(error, repeatable=repeatable) from error
            except psycopg.Error as error:
                if transaction.committing and lost_while_committing(error):
                    raise _commit_unknown(service_error(error), repeatable=repeatable) from error
                violation = constraint_error(error, constraint_errors or {})
                raise violation or _retryable_or_final(error, committing=transaction.committing) from error

        self._require_schema()
        try:
            result = await self.retrier.execute(attempt, time_left=current_context().remaining())
        except ServiceError as failure:
            raise self._write_failure(failure) from failure.__cause__
        self._notify_commit()
        return result

    async def position(self, connection: Connection) -> WalPosition | None:
        """Returns the WAL position after a commit on this connection, or None if no consistency token is needed."""
        row = None
        if self.replicas:
            with suppress(psycopg.Error):  # the commit has succeeded all the same
                row = await Session(connection).one(self._queries["position"])
        if row is None:
            return None if self._shared.on_cached_change is None else WAL_START  # at least bypasses the cache
        return WalPosition(timeline=row[1], lsn=row[0])

    async def token(self, connection: Connection) -> str:
        """Returns the consistency token after a commit on this connection, or an empty text if none is needed."""
        position = await self.position(connection)
        if position is None or not (self.replicas or self._changes_cached_records):
            return ""
        return position.encode(bypass_cache=self._changes_cached_records)

    async def wait_for_standbys(self, session: Session) -> None:
        """Makes the commit of this transaction wait for the synchronous standbys, even if it has written nothing.

        Used for an answer that depends on another transaction, which may be committed on the primary only.
        Raises ReadOnlyMode.
        """
        row = await session.one(self._queries["wait_for_standbys"])
        if row is None or row[0] is None:
            raise ReadOnlyMode

    def _notify_commit(self) -> None:
        if self._changes_cached_records and self._shared.on_cached_change is not None:
            self._shared.on_cached_change()

    def _require_schema(self) -> None:
        if self._required_sets & self._shared.missing_sets:
            raise SchemaOutOfDate

    def _write_failure(self, failure: ServiceError) -> ServiceError:
        """Returns ReadOnlyMode if the primary is down and replicas still serve reads, otherwise `failure`."""
        if is_down(failure) and not isinstance(failure, ServerSilent) and self.router.read_only:
            return ReadOnlyMode()
        return failure

    async def _read_from(
        self, server: DatabaseServer, work: Callable[[Session], Awaitable[T]], *, fail_fast: bool
    ) -> T:
        async def attempt() -> T:
            try:
                return await server.execute(
                    lambda connection: work(Session(connection)),
                    acquire_timeout=_acquire_timeout(),
                    response_timeout=self._ping_timeout if fail_fast else None,
                )
            except psycopg.Error as error:
                if server is self.primary:
                    raise _retryable_or_final(error, committing=False) from error
                raise service_error(error) from error

        if server is not self.primary:
            return await attempt()
        return await self.retrier.execute(attempt, time_left=current_context().remaining())

    async def _connect(
        self, application_name: str, preference: ReadPreference, *, response_timeout: float
    ) -> Connection:
        failure: ServiceError = DatabaseUnavailable()
        for server in self.router.candidates(preference):
            try:
                return await server.connect(application_name, response_timeout=response_timeout)
            except CircuitOpen as error:
                failure = error
            except psycopg.Error as error:
                failure = service_error(error)
        raise failure


def _acquire_timeout() -> float | None:
    """Returns how many seconds the call may wait for a connection. Raises QueryTimeout if its deadline is too near."""
    remaining = current_context().remaining()
    if remaining is None:
        return None
    if remaining <= _DEADLINE_MARGIN_S:
        raise QueryTimeout
    return remaining - _DEADLINE_MARGIN_S


def _preference(mode: ReadMode) -> ReadPreference:
    return ReadPreference(mode) if mode is ReadMode.PRIMARY else read_preference(current_context(), mode)


def _commit_unknown(error: ServiceError, *, repeatable: bool) -> Exception:
    """If the transaction is repeatable and no retry succeeds, `error` tells the caller to send the request again."""
    return RetryableError("commit_unknown", error) if repeatable else CommitUnknown()


def _retryable_or_final(error: psycopg.Error, *, committing: bool) -> Exception:
    failure = service_error(error)
    if may_retry(error, committing=committing):
        return RetryableError(error.sqlstate or "connection_lost", failure)
    return failure


def another_server_may_answer(failure: ServiceError) -> bool:
    """Whether a read that failed on a replica may succeed on another server.

    The replica may be down, may have cancelled the read because it conflicted with replay (40001), may lack a
    migration, or may be short of connections or of disk space for sorting. On the primary, all but the first are final.
    """
    return is_down(failure) or isinstance(failure, Contention | PoolExhausted | SchemaOutOfDate | StorageFull)
