"""One PostgreSQL server: its pool, its circuit breaker, and its last known status."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from math import nan
from typing import Any, Final, TypeVar
from weakref import WeakSet

import psycopg

from vsyncd.config import Settings
from vsyncd.config.endpoints import HostPort
from vsyncd.core.errors import QueryTimeout, ServiceError
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import POOLS, REPLICA_LAG_BYTES, REPLICA_LAG_SECONDS
from vsyncd.postgres.connection import Connection, Connector
from vsyncd.postgres.error_mapping import (
    AUTHENTICATION,
    NO_DATABASE,
    TIMEOUT,
    TOO_MANY,
    CircuitOpen,
    DatabaseUnavailable,
    PoolExhausted,
    ServerSilent,
    error_category,
)
from vsyncd.postgres.pool import Pool
from vsyncd.postgres.replication import ReplicationLag, ServerStatus, WalHistory
from vsyncd.resilience.circuit_breaker import CLOSED, OPEN, CircuitBreaker, publish_breaker
from vsyncd.resilience.tasks import cancel_and_wait, transfer_outcome
from vsyncd.session_settings import UnfitDatabase

T = TypeVar("T")

PRIMARY: Final = "primary"

# Minimum time between two replacements of all connections to find a server that accepts writes.
_MIN_RECONNECT_INTERVAL_S: Final = 1.0
# RetryInfo of CircuitOpen is not shorter than this.
_MIN_RETRY_AFTER_S: Final = 0.1

_log = logger(__name__)


class DatabaseServer:
    """A server with the addresses `hosts`, which are tried in turn until one accepts writes.

    `wal_history` is the primary's. `last_error` is the category of the last failure to connect, or an empty text.
    `available` is set while the circuit breaker is closed.
    """

    def __init__(self, settings: Settings, name: str, hosts: tuple[HostPort, ...], wal_history: WalHistory) -> None:
        self.wal_history = wal_history
        self.name = name
        self.hosts = hosts
        self.connector = Connector(settings, hosts, replica=name != PRIMARY)
        self.pool = Pool(settings, self.connector, name=name)
        self.breaker = CircuitBreaker(
            f"postgresql-{name}", failures=settings.db_breaker_failures, reset=settings.db_breaker_reset
        )
        self.last_status: ServerStatus | None = None
        self.last_error = ""
        self._acquire_timeout = settings.db_acquire_timeout
        # The server ends a statement at its timeout. A server that takes longer than this is considered gone.
        self._response_timeout = 2 * settings.db_statement_timeout + settings.db_ping_timeout
        self._reconnected_at = float("-inf")
        self._pending: set[asyncio.Future[Any]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dedicated: WeakSet[Connection] = WeakSet()
        self.available = asyncio.Event()
        self.available.set()
        self._pool_tasks: set[asyncio.Task[None]] = set()
        self.connector.allow_pooled = lambda: self.breaker.closed
        self.connector.on_connected = self._forget_error
        self.connector.on_failed = self.on_connection_failed
        self.breaker.on_change.append(self._on_breaker_change)

    def publish_metrics(self) -> Callable[[], None]:
        """Publishes the metrics of the pool, the circuit breaker and the lag until the returned function is called."""
        stack = ExitStack()
        stack.callback(publish_breaker(self.breaker))
        POOLS.add(self.name, self.pool.get_stats)
        stack.callback(POOLS.remove, self.name, self.pool.get_stats)
        if self.name != PRIMARY:
            REPLICA_LAG_SECONDS.labels(self.name).set_function(lambda: lag.seconds if (lag := self.lag) else nan)
            REPLICA_LAG_BYTES.labels(self.name).set_function(lambda: lag.bytes if (lag := self.lag) else nan)
            stack.callback(REPLICA_LAG_SECONDS.remove, self.name)
            stack.callback(REPLICA_LAG_BYTES.remove, self.name)
        return stack.close

    async def close(self) -> None:
        """Cancels work in progress and closes every connection."""
        self._fail_pending(DatabaseUnavailable)
        self.connector.close()  # the pool would wait for attempts in progress and then leave them behind
        await cancel_and_wait([*self._tasks, *self._pool_tasks])
        await self.pool.close()

    @property
    def lag(self) -> ReplicationLag | None:
        """The replication lag, or None if it is unknown.

        For a replica that is down, what the primary has written since the last status counts as lag.
        """
        status, last_lsn = self.last_status, self.wal_history.last_lsn
        if status is None or status.diverged or last_lsn is None:
            return None
        if status.is_fresh and self.breaker.closed:
            return status.lag
        if status.position.lsn > last_lsn:
            return None  # there was another primary then, or the primary was down
        return self.wal_history.lag(status.observed_at, status.position.lsn, reported_lag=status.reported_lag)

    @property
    def active_tasks(self) -> int:
        """The number of tasks that use the server, including the clean-up after answered calls."""
        return len(self._tasks)

    async def execute(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        acquire_timeout: float | None,
        response_timeout: float | None = None,
    ) -> T:
        """Returns the result of `work` on a pooled connection.

        The work runs in its own task: a cancelled caller returns at once, and its statement is then cancelled on the
        server. Raises CircuitOpen, PoolExhausted, DatabaseUnavailable, ServerSilent (after `response_timeout` seconds
        or if the server hangs), and what `work` raises.
        """
        self._require_available()
        timeout = self._acquire_timeout if acquire_timeout is None else min(acquire_timeout, self._acquire_timeout)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(self._run(work, timeout, answer))
        self._tasks.add(task)
        self._pending.add(answer)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(partial(transfer_outcome, answer))
        timer = loop.call_later(response_timeout or self._response_timeout, self._on_silent, answer)
        try:
            return await answer
        finally:
            timer.cancel()
            self._pending.discard(answer)
            if not _has_result(answer):  # otherwise the task is only returning its connection
                task.cancel()

    async def connect(self, application_name: str, *, response_timeout: float) -> Connection:
        """Opens a dedicated connection, which the caller closes. It is aborted if the server hangs.

        Raises CircuitOpen and psycopg.Error.
        """
        self._require_available()
        connection = await self.connector.connect(application_name)
        connection.response_timeout = response_timeout
        self._dedicated.add(connection)
        return connection

    def ping_idle_connections(self) -> None:
        """Starts to ping the pool's idle connections, unless a pool task is running."""
        if self.breaker.closed and not self._pool_tasks:
            self._start_pool_task(self.pool.ping_idle())

    def reconnect_to_writer(self) -> None:
        """Replaces the pool's connections because the server no longer accepts writes (25006).

        New connections may reach the server that does, through another address or a DNS name that has moved. A session
        also keeps the default_transaction_read_only that it started with.
        """
        now = time.monotonic()
        if now - self._reconnected_at >= _MIN_RECONNECT_INTERVAL_S:
            self._reconnected_at = now
            self._start_pool_task(self.pool.drain())

    def on_unresponsive(self) -> None:
        """Handles a server that hangs: opens the circuit breaker and fails every pending call."""
        if self.last_error != TIMEOUT:
            _log.warning("PostgreSQL does not answer", dependency=self.breaker.name)
            self.last_error = TIMEOUT
        self.breaker.trip()
        self._start_pool_task(self.pool.drain())
        self._fail_pending(ServerSilent)
        for connection in self._dedicated:
            connection.abort()

    def on_connection_failed(self, error: psycopg.Error) -> None:
        """Handles a failure to connect, or the loss of an unused connection."""
        category = error_category(error)
        if category != self.last_error:
            _log.warning("cannot connect to PostgreSQL", dependency=self.breaker.name, cause=category)
            self.last_error = category
        if category == TOO_MANY and self.breaker.closed:
            return  # the server is up, and the existing connections work
        permanent = category in {AUTHENTICATION, NO_DATABASE} or isinstance(error, UnfitDatabase)
        if permanent and not self.pool.is_connected:
            self.breaker.trip()
        else:
            self.breaker.failed()

    def on_recovered(self) -> None:
        """Handles the end of an outage: fills the pool."""
        self._start_pool_task(self.pool.warm_up(self._acquire_timeout))

    def _require_available(self) -> None:
        if not self.breaker.closed:
            raise CircuitOpen(max(self.breaker.seconds_to_trial, _MIN_RETRY_AFTER_S))

    async def _run(
        self, work: Callable[[Connection], Awaitable[T]], acquire_timeout: float, answer: "asyncio.Future[T]"
    ) -> T:
        """Sets the answer before the connection is returned, so that the caller does not wait for that."""
        connection = await self._acquire(acquire_timeout)
        try:
            result = await work(connection)
        except psycopg.errors.QueryCanceled:
            self.breaker.failed()  # by statement_timeout: our own cancellation would have cancelled this task
            raise
        except psycopg.errors.ReadOnlySqlTransaction:
            self.reconnect_to_writer()
            raise
        else:
            self.breaker.succeeded()
            if not answer.done():
                answer.set_result(result)
            return result
        finally:
            # Work does not close its connection: a closed one was lost.
            if connection.closed:
                self.breaker.failed()
            await self.pool.release(connection)

    async def _acquire(self, timeout: float) -> Connection:
        try:
            return await self.pool.acquire(timeout)
        except DatabaseUnavailable as error:
            if not self.breaker.closed:
                raise
            if self.last_error == TOO_MANY:
                raise PoolExhausted from error  # the server is up, and refuses further connections
            if timeout < self._acquire_timeout:
                raise QueryTimeout from error  # the pool is filling, and the caller's deadline was short
            raise

    def _fail_pending(self, failure: Callable[[], ServiceError]) -> None:
        for answer in self._pending:
            if not answer.done():
                answer.set_exception(failure())

    def _on_silent(self, answer: "asyncio.Future[Any]") -> None:
        if not answer.done():
            self.breaker.failed()
            answer.set_exception(ServerSilent())

    def _start_pool_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"{self.name} pool")
        self._pool_tasks.add(task)
        task.add_done_callback(self._pool_tasks.discard)

    def _forget_error(self) -> None:
        self.last_error = ""

    def _on_breaker_change(self, state: str) -> None:
        if state == CLOSED:
            self.available.set()
        else:
            self.available.clear()
        if state == OPEN:
            self.pool.fail_waiting(CircuitOpen(self.breaker.seconds_to_trial))


def _has_result(answer: "asyncio.Future[Any]") -> bool:
    return answer.done() and not answer.cancelled() and answer.exception() is None


def is_down(failure: ServiceError) -> bool:
    """Whether the failure means that the server is down, so that another one may answer."""
    return failure.reason in {"CIRCUIT_OPEN", "DATABASE_UNAVAILABLE"}
