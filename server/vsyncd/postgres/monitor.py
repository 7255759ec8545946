"""Monitors one server over a dedicated connection, which an exhausted pool cannot starve.

The monitor distinguishes a server that hangs from one that is busy, makes the trials of an open circuit breaker so that
recovery needs no caller, measures the replication lag, and detects diverged servers.
"""

import asyncio
import time
from typing import Final, NamedTuple

import psycopg

from vsyncd.observability.logs import logger
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.consistency import WalPosition
from vsyncd.postgres.database_server import PRIMARY, DatabaseServer
from vsyncd.postgres.queries import queries
from vsyncd.postgres.replication import DivergenceDetector, ReplicationLag, ServerStatus
from vsyncd.resilience.tasks import cancel_and_wait

INTERVAL_S: Final = 1.0
_MIN_RETRY_DELAY_S: Final = 0.02

_log = logger(__name__)


class _StatusRow(NamedTuple):
    """The row that the query `look` returns. `reported_lag` is in seconds, `started_at` in seconds since the epoch."""

    in_recovery: bool
    read_only: bool
    lsn: int
    timeline: int
    reported_lag: float
    started_at: float
    insert_lsn: int


class Monitor:
    """Checks a server every INTERVAL_S.

    The primary's monitor writes `divergence` and the servers' WalHistory; the replicas' monitors read them. A server
    that does not answer within `ping_timeout` seconds hangs. Idle connections are pinged every `idle_check_interval`
    seconds.
    """

    def __init__(
        self,
        server: DatabaseServer,
        divergence: DivergenceDetector,
        *,
        schema: str,
        ping_timeout: float,
        idle_check_interval: float,
    ) -> None:
        self._server = server
        self._is_primary = server.name == PRIMARY
        self._divergence = divergence
        self._query = queries("vsyncd.postgres", schema)["look"]
        self._ping_timeout = ping_timeout
        self._idle_check_interval = idle_check_interval
        self._idle_checked_at = time.monotonic()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"{self._server.name} monitor")

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_and_wait([self._task])
            self._task = None
        await self._close()

    async def _run(self) -> None:
        breaker = self._server.breaker
        while True:
            trial = breaker.begin_trial()
            if not (trial or breaker.closed):
                await asyncio.sleep(min(INTERVAL_S, max(_MIN_RETRY_DELAY_S, breaker.seconds_to_trial)))
                continue
            try:
                await self._check(trial=trial)
            except Exception as error:  # noqa: BLE001  a defect here must not leave the breaker open for good
                _log.error("the monitor failed", dependency=breaker.name, exc_info=error)
                await asyncio.sleep(INTERVAL_S)
            finally:
                if trial:
                    breaker.abandon()
            if time.monotonic() - self._idle_checked_at > self._idle_check_interval:
                self._idle_checked_at = time.monotonic()
                self._server.ping_idle_connections()
            if breaker.closed:
                await asyncio.sleep(INTERVAL_S)

    async def _check(self, *, trial: bool) -> None:
        """Queries the status, once more on a new connection if the old one was lost: the server may have restarted."""
        was_connected = self._connection is not None
        try:
            try:
                await self._update_status()
            except psycopg.Error:
                if not was_connected:
                    raise
                await self._close()
                await self._update_status()
        except psycopg.Error as error:
            self._forget_primary()
            await self._close()
            self._server.on_connection_failed(error)
        except TimeoutError:
            self._forget_primary()
            self._server.on_unresponsive()
        else:
            # Outside a trial, an answer says nothing about the callers' statements, which may all time out.
            if trial:
                self._server.breaker.succeeded(trial=True)
                self._server.on_recovered()

    async def _update_status(self) -> None:
        """Raises psycopg.Error, TimeoutError."""
        if self._connection is None:
            self._connection = await self._server.connector.connect("vsyncd monitor")
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(self._ping_timeout):
                row = await self._connection.run_or_abort(self._fetch(self._connection))
        except TimeoutError:
            await self._close()
            raise
        except psycopg.Error:
            if self._connection.closed:
                raise
            # The server is up but lacks these functions, as some managed PostgreSQL services do.
            self._server.last_status = None
            self._forget_primary()
            return
        now = time.monotonic()
        if self._is_primary:
            self._record_primary(asked_at, now, row)
        self._server.last_status = self._status(now, row)
        if (row.in_recovery or row.read_only) and self._is_primary:
            await self._close()  # only a new session can reach another server at this address that accepts writes

    def _record_primary(self, asked_at: float, now: float, row: _StatusRow) -> None:
        if row.in_recovery:
            self._forget_primary()
            return
        self._server.wal_history.record(now, row.lsn)
        self._divergence.record_primary(asked_at, row.started_at, WalPosition(row.timeline, row.insert_lsn))

    def _forget_primary(self) -> None:
        if self._is_primary:
            self._divergence.forget_primary()

    def _status(self, now: float, row: _StatusRow) -> ServerStatus:
        # The previous status can be compared now: the primary has been asked since.
        if (last := self._server.last_status) is not None and not self._is_primary:
            self._divergence.compare(last)
        lag = ReplicationLag(0.0, 0)
        if row.in_recovery:
            lag = self._server.wal_history.lag(now, row.lsn, reported_lag=row.reported_lag)
        return ServerStatus(
            observed_at=now,
            in_recovery=row.in_recovery,
            read_only=row.read_only,
            position=WalPosition(row.timeline, row.lsn),
            lag=lag,
            reported_lag=row.reported_lag,
            started_at=row.started_at,
            diverged=not self._is_primary and self._divergence.has_diverged(row.started_at),
        )

    async def _fetch(self, connection: Connection) -> _StatusRow:
        cursor = connection.cursor(binary=True)
        await cursor.execute(self._query.sql, prepare=False)  # a pooler may not support prepared statements
        row = await cursor.fetchone()
        if row is None:
            raise AssertionError("SELECT without FROM gives a row")
        return _StatusRow(*row)

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
