"""One PostgreSQL server, as calls use it: its pool, its circuit breaker, and what was last seen of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar
from weakref import WeakSet

import psycopg

from vsyncd.config import Settings
from vsyncd.config.endpoints import HostPort
from vsyncd.core.errors import QueryTimeout, ServiceError
from vsyncd.observability.logs import logger
from vsyncd.postgres.connection import Connection, Connector
from vsyncd.postgres.consistency import WalPosition
from vsyncd.postgres.error_categories import AUTHENTICATION, NO_DATABASE, TIMEOUT, TOO_MANY, error_category
from vsyncd.postgres.error_mapping import CircuitOpen, DatabaseUnavailable, PoolExhausted, ServerSilent
from vsyncd.postgres.pool import Pool
from vsyncd.postgres.replication_lag import ReplicationLag, WalHistory
from vsyncd.resilience.circuit_breaker import CLOSED, OPEN, CircuitBreaker
from vsyncd.resilience.tasks import cancel_and_wait
from vsyncd.session_settings import UnfitDatabase

T = TypeVar("T")

PRIMARY: Final = "primary"

# Seconds after which what was seen of a server is no longer believed.
_FRESH: Final = 10.0
# Seconds, at the least, between two times that connections are made anew to look for a server that takes writes.
_LOOK: Final = 1.0

_log = logger(__name__)


class Sighting(NamedTuple):
    """What a server said of itself, at a time of the monotonic clock. `lag` is as of then; `own_lag` is for how many
    seconds it had had something to replay. `diverged`: it is known to be no replica of the primary's (see branches.py).
    """

    at: float
    in_recovery: bool
    read_only: bool
    position: WalPosition
    lag: ReplicationLag
    own_lag: float
    began: float
    diverged: bool

    @property
    def fresh(self) -> bool:
        """Whether it is new enough to go by."""
        return time.monotonic() - self.at < _FRESH


class DatabaseServer:
    """A server. `hosts` are its addresses; several are tried in turn until one takes writes. `history` is the
    primary's."""

    def __init__(self, settings: Settings, name: str, hosts: tuple[HostPort, ...], history: WalHistory) -> None:
        self.history = history
        self.name = name
        self.hosts = hosts
        self.connector = Connector.of(settings, hosts, replica=name != PRIMARY)
        self.pool = Pool(settings, self.connector, name=name)
        self.breaker = CircuitBreaker(
            f"postgresql-{name}", failures=settings.db_breaker_failures, reset=settings.db_breaker_reset
        )
        self.seen: Sighting | None = None
        self.cause = ""
        self._acquire_timeout = settings.db_acquire_timeout
        # The server ends a statement at its timeout. What takes longer than that has no server any more.
        self._limit = 2 * settings.db_statement_timeout + settings.db_ping_timeout
        self._looked_at = float("-inf")
        self._answers: set[asyncio.Future[Any]] = set()
        self._running: set[asyncio.Task[Any]] = set()
        self._lent: WeakSet[Connection] = WeakSet()
        self._closed = asyncio.Event()
        self._closed.set()
        self._draining: set[asyncio.Task[None]] = set()
        self.connector.allowed = lambda: self.breaker.closed
        self.connector.on_made = self._connected
        self.connector.on_failed = self.unreachable
        self.breaker.on_change.append(self._breaker_changed)

    async def open(self) -> None:
        """Begin to connect, in the background."""
        await self.pool.open()

    async def close(self) -> None:
        """End what is still going on behind its callers, and close every connection."""
        self._dismiss(DatabaseUnavailable)
        self.connector.close()  # the pool would wait for what is being made, and in the end leave it behind
        await cancel_and_wait([*self._running, *self._draining])
        await self.pool.close()

    @property
    def lag(self) -> ReplicationLag | None:
        """How far it is behind the primary, as of when that was last seen; None when nobody knows.

        One that is gone falls behind by all that the primary writes.
        """
        seen, written = self.seen, self.history.written
        if seen is None or seen.diverged or written is None:
            return None
        if seen.fresh and self.breaker.closed:
            return seen.lag
        if seen.position.lsn > written:
            return None  # the primary was another one then, or was gone before
        return self.history.lag(seen.at, seen.position.lsn, own=seen.own_lag)

    @property
    def working(self) -> int:
        """Tasks that use the server now, for a caller or behind one that was answered already."""
        return len(self._running)

    async def attempt(
        self, work: Callable[[Connection], Awaitable[T]], *, wait: float | None, limit: float | None = None
    ) -> T:
        """The result of `work` on a connection, for which at most `wait` seconds are waited.

        The work is a task of its own: whoever is cancelled, at his deadline or because his caller left, goes at once,
        and the statement is cancelled on the server behind him. Raises CircuitOpen, PoolExhausted, DatabaseUnavailable,
        ServerSilent after `limit` seconds or when the server was found to hang, and what `work` raises.
        """
        self._require_closed()
        seconds = self._acquire_timeout if wait is None else min(wait, self._acquire_timeout)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(self._use(work, seconds, answer))
        self._running.add(task)
        self._answers.add(answer)
        task.add_done_callback(partial(self._ended, answer))
        timer = loop.call_later(limit or self._limit, self._silent, answer)
        try:
            return await answer
        finally:
            timer.cancel()
            self._answers.discard(answer)
            if not _given(answer):  # else it is only giving its connection back
                task.cancel()

    async def lend(self, name: str, *, patience: float) -> Connection:
        """A connection beside the pool, which the borrower closes; it is cut when the server is found to hang.

        Raises CircuitOpen and psycopg.Error.
        """
        self._require_closed()
        connection = await self.connector.open(name)
        connection.patience = patience
        self._lent.add(connection)
        return connection

    def _require_closed(self) -> None:
        if not self.breaker.closed:
            raise CircuitOpen(max(self.breaker.seconds_to_trial, 0.1))

    def distrust(self) -> None:
        """No connection that there is now is used again; they may lead to a server that is none any more."""
        self._behind(self.pool.drain())

    def hang(self) -> None:
        """The server does not answer: nobody waits for it any longer, and nobody begins to."""
        if self.cause != TIMEOUT:
            _log.warning("PostgreSQL does not answer", dependency=self.breaker.name)
            self.cause = TIMEOUT
        self.breaker.trip()
        self.distrust()
        self._dismiss(ServerSilent)
        for connection in self._lent:
            connection.cut()

    def unreachable(self, error: psycopg.Error) -> None:
        """A connection could not be made, or one that nobody works with was lost."""
        cause = error_category(error)
        if cause != self.cause:
            _log.warning("cannot connect to PostgreSQL", dependency=self.breaker.name, cause=cause)
            self.cause = cause
        if cause == TOO_MANY and self.breaker.closed:
            return  # it is there, and those that we have work
        hopeless = cause in {AUTHENTICATION, NO_DATABASE} or isinstance(error, UnfitDatabase)
        if hopeless and not self.pool.in_use:
            self.breaker.trip()  # waiting does not help
        else:
            self.breaker.failed()

    async def answers(self) -> None:
        """Until its circuit breaker is closed."""
        await self._closed.wait()

    def sweep(self) -> None:
        """Begin to check the idle connections, unless that is going on."""
        if self.breaker.closed and not self._draining:
            self._behind(self.pool.sweep())

    def recovered(self) -> None:
        """The server answers again: fill the pool."""
        self._behind(self.pool.warm(self._acquire_timeout))

    async def _use(
        self, work: Callable[[Connection], Awaitable[T]], seconds: float, answer: "asyncio.Future[T]"
    ) -> None:
        """The answer goes before the connection is given back: nobody waits for that."""
        connection = await self._acquire(seconds)
        try:
            result = await work(connection)
        except psycopg.errors.QueryCanceled:
            self.breaker.failed()  # by its own statement_timeout: ours would have cancelled this task
            raise
        except psycopg.errors.ReadOnlySqlTransaction:
            self.look_for_a_writer()
            raise
        else:
            self.breaker.succeeded()
            if not answer.done():
                answer.set_result(result)
        finally:
            # Only a connection that was lost is closed here: nobody closes one that works.
            if connection.closed:
                self.breaker.failed()
            await self.pool.release(connection)

    async def _acquire(self, seconds: float) -> Connection:
        try:
            return await self.pool.acquire(seconds)
        except DatabaseUnavailable as error:
            if not self.breaker.closed:
                raise
            if self.cause == TOO_MANY:
                raise PoolExhausted from error  # it is there, and lets no more of us in
            if seconds < self._acquire_timeout:
                raise QueryTimeout from error  # a cold pool and a caller with little time: nothing is down
            raise

    def look_for_a_writer(self) -> None:
        """It was the primary once, or takes no writes for now (25006): connections that are made now may lead to the
        one that does, whether there are several hosts or one name that moves, and a session keeps the
        default_transaction_read_only that it began with."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK:
            self._looked_at = now
            self.distrust()

    def _dismiss(self, failure: Callable[[], ServiceError]) -> None:
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(failure())

    def _silent(self, answer: "asyncio.Future[Any]") -> None:
        if not answer.done():
            self.breaker.failed()
            answer.set_exception(ServerSilent())

    def _ended(self, answer: "asyncio.Future[T]", task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if task.cancelled():
            answer.cancel()
        elif (error := task.exception()) is not None and not answer.done():
            answer.set_exception(error)
            answer.exception()  # whoever it is for may be cancelled before he sees it

    def _behind(self, work: "Awaitable[None]") -> None:
        async def run() -> None:
            await work

        task = asyncio.get_running_loop().create_task(run(), name=f"{self.name} pool")
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def _connected(self) -> None:
        self.cause = ""

    def _breaker_changed(self, state: str) -> None:
        if state == CLOSED:
            self._closed.set()
        else:
            self._closed.clear()
        if state == OPEN:
            self.pool.dismiss(CircuitOpen(self.breaker.seconds_to_trial))


def _given(answer: "asyncio.Future[Any]") -> bool:
    """Whether there is a result."""
    return answer.done() and not answer.cancelled() and answer.exception() is None


def is_down(failure: ServiceError) -> bool:
    """Whether a failure says that a server is not there, and another one may serve."""
    return failure.reason in {"CIRCUIT_OPEN", "DATABASE_UNAVAILABLE"}
