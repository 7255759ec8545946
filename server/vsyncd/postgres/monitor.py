"""Watching one server over a connection of its own, which no exhausted pool can starve.

It tells a server that hangs from one that is busy, tries again while the circuit breaker is open, so that recovery
needs no caller, measures how far a replica is behind, and tells one that is none of the primary's.
"""

import asyncio
import time
from typing import Final, NamedTuple

import psycopg

from vsyncd.observability.logs import logger
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.consistency import WalPosition
from vsyncd.postgres.database_server import PRIMARY, DatabaseServer, Sighting
from vsyncd.postgres.divergence import DivergenceDetector, ServerPosition
from vsyncd.postgres.queries import queries
from vsyncd.postgres.replication_lag import ReplicationLag
from vsyncd.resilience.tasks import cancel_and_wait

# Seconds between two looks at a server.
INTERVAL: Final = 1.0

_log = logger(__name__)


class _Answer(NamedTuple):
    """What the query `look` gives. `own_lag` in seconds, `began` in those of the epoch."""

    in_recovery: bool
    read_only: bool
    lsn: int
    timeline: int
    own_lag: float
    began: float
    inserted: int


class Monitor:
    """Looks at a server again and again.

    `branches`, and the targets' history, are the primary's: its own monitor writes them, the replicas' read them. Times
    in seconds: a server that does not answer within `ping_timeout` hangs; idle connections are checked every `sweep`.
    """

    def __init__(
        self,
        target: DatabaseServer,
        branches: DivergenceDetector,
        *,
        schema: str,
        ping_timeout: float,
        sweep: float,
    ) -> None:
        self.target = target
        self._is_primary = target.name == PRIMARY
        self._branches = branches
        self._query = queries("vsyncd.postgres", schema)["look"]
        self._ping_timeout = ping_timeout
        self._sweep = sweep
        self._swept_at = time.monotonic()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"{self.target.name} monitor")

    async def stop(self) -> None:
        """End, and close the connection."""
        if self._task is not None:
            await cancel_and_wait([self._task])
            self._task = None
        await self._close()

    async def _run(self) -> None:
        breaker = self.target.breaker
        while True:
            trial = breaker.begin_trial()
            if not (trial or breaker.closed):
                await asyncio.sleep(min(INTERVAL, max(0.02, breaker.seconds_to_trial)))
                continue
            try:
                await self._look(trial=trial)
            except Exception as error:  # noqa: BLE001  a defect here must not leave the breaker open for good
                _log.error("the monitor is defective", dependency=breaker.name, exc_info=error)
                await asyncio.sleep(INTERVAL)
            finally:
                if trial:
                    breaker.abandon()
            if time.monotonic() - self._swept_at > self._sweep:
                self._swept_at = time.monotonic()
                self.target.sweep()
            if breaker.closed:
                await asyncio.sleep(INTERVAL)

    async def _look(self, *, trial: bool) -> None:
        """Ask; over a new connection when the one there was is lost: that alone may be a restart, and no outage."""
        had_one = self._connection is not None
        try:
            try:
                await self._ask()
            except psycopg.Error:
                if not had_one:
                    raise
                await self._close()
                await self._ask()
        except psycopg.Error as error:
            self._lost()
            await self._close()
            self.target.unreachable(error)
        except TimeoutError:
            self._lost()
            self.target.hang()
        else:
            # That it answers at all says nothing of the statements of those who work, which may all run out of time.
            if trial:
                self.target.breaker.succeeded(trial=True)
                self.target.recovered()

    async def _ask(self) -> None:
        """Raises psycopg.Error, TimeoutError."""
        if self._connection is None:
            self._connection = await self.target.connector.open("vsyncd monitor")
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(self._ping_timeout):
                answer = await self._connection.ask(self._fetch(self._connection))
        except TimeoutError:
            await self._close()
            raise
        except psycopg.Error:
            if self._connection.closed:
                raise
            # It answers, and cannot say this: not every PostgreSQL that is rented has these functions.
            self.target.seen = None
            self._lost()
            return
        now = time.monotonic()
        if self._is_primary:
            self._note(asked_at, now, answer)
        self.target.seen = self._sighting(now, answer)
        if (answer.in_recovery or answer.read_only) and self._is_primary:
            await self._close()  # what the address leads to by now, and takes writes, only a new session tells

    def _note(self, asked_at: float, now: float, answer: _Answer) -> None:
        """What the primary's address led to."""
        if answer.in_recovery:
            self._lost()
            return
        self.target.history.note(now, answer.lsn)
        place = ServerPosition(answer.began, in_recovery=False, position=WalPosition(answer.timeline, answer.inserted))
        self._branches.note(asked_at, place)

    def _lost(self) -> None:
        if self._is_primary:
            self._branches.lost()

    def _sighting(self, now: float, answer: _Answer) -> Sighting:
        # What it said last can be judged by now: the primary has been asked since.
        if (before := self.target.seen) is not None and not self._is_primary:
            self._branches.judge(before.at, ServerPosition(before.began, before.in_recovery, before.position))
        return Sighting(
            at=now,
            in_recovery=answer.in_recovery,
            read_only=answer.read_only,
            position=WalPosition(answer.timeline, answer.lsn),
            lag=self.target.history.lag(now, answer.lsn, own=answer.own_lag)
            if answer.in_recovery
            else ReplicationLag(0.0, 0),
            own_lag=answer.own_lag,
            began=answer.began,
            diverged=not self._is_primary and self._branches.diverged(answer.began),
        )

    async def _fetch(self, connection: Connection) -> _Answer:
        cursor = connection.cursor(binary=True)
        await cursor.execute(self._query.sql, prepare=False)  # poolers
        row = await cursor.fetchone()
        if row is None:
            raise AssertionError("SELECT without FROM gives a row")
        return _Answer(*row)

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
