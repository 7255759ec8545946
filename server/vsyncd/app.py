"""The composition root: what there is, put together; started in order, stopped in reverse.

Adding a domain is one line in ROOMS.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final, Self

import grpc
import psycopg
import uvloop

from vsyncd import __version__
from vsyncd.cache.wiring import CacheServices
from vsyncd.cache.wiring import upkeep as cache_upkeep
from vsyncd.config import ConfigError, Settings
from vsyncd.config.endpoints import parse_host_port
from vsyncd.domains.audit.domain import domain as audit
from vsyncd.domains.cids.domain import domain as cids
from vsyncd.domains.domain import Dependencies, DomainBuilder
from vsyncd.domains.reconciliation.domain import domain as reconciliation
from vsyncd.domains.server_info.domain import domain as about
from vsyncd.domains.sync_batches.domain import domain as sync_batches
from vsyncd.health.metrics import HEALTH
from vsyncd.health.wiring import HealthServices
from vsyncd.jobs.ledger import JobLedger
from vsyncd.jobs.maintenance.maintainer import Maintainer
from vsyncd.jobs.migrations import migration_target
from vsyncd.jobs.runner import Job, JobRunner
from vsyncd.jobs.scheduled_backups import BackupJobs
from vsyncd.migrate import DatabaseUnreachable, MigrateError, migrate_up
from vsyncd.observability import logs
from vsyncd.observability.metrics import BACKUPS, BUILD, CALLS_LIMIT, QUERIES
from vsyncd.observability.tracing.setup import tracing
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_categories import OTHER, error_category
from vsyncd.postgres.mutations import Mutations
from vsyncd.postgres.telemetry import publish
from vsyncd.session_settings import UnfitDatabase
from vsyncd.signals import StopSignals
from vsyncd.transport.core_log import core_log
from vsyncd.transport.draining import Drain
from vsyncd.transport.server import build_server, cannot_listen

if TYPE_CHECKING:  # an extra that a service with a database of its own does not have
    from vsyncd.embedded_servers import EmbeddedServers

ROOMS: Final[Sequence[DomainBuilder]] = (cids, sync_batches, audit, reconciliation, about)

# Seconds.
_MIGRATION_RETRY: Final = 2.0
# After a migration that failed, or whose lock was never free.
_MIGRATION_PAUSE: Final = 30.0
# Of SHUTDOWN_GRACE, what calls in flight get; the rest is for closing what they stand on.
_FOR_CALLS: Final = 0.9
# Seconds, within what is left of that, for answers that were given and are on their way: some readers take nothing.
_ON_THEIR_WAY: Final = 3.0
# Seconds that calls which are cut off get to roll back.
_CLEAN_UP: Final = 1.0
# Seconds past SHUTDOWN_GRACE after which a process that still has not stopped is ended.
_OVERDUE: Final = 2.0

_log = logs.logger(__name__)


class Application:
    """One vsyncd over one database. `async with` starts and stops it; `port` is where it serves gRPC then, and
    `http_port` probes and metrics."""

    def __init__(self, settings: Settings, *, database: Callable[[Settings], Database] = Database) -> None:
        self.settings = settings
        self.port = 0
        self.http_port = 0
        self.database = database(settings)
        self.cache = CacheServices(settings, self.database) if settings.redis_url else None
        parts = Dependencies(
            settings=settings,
            database=self.database,
            mutations=Mutations(self.database),
            cache=self.cache.records if self.cache else None,
        )
        self._rooms = [build(parts) for build in ROOMS]
        self._maintainer = Maintainer(settings, self.database)
        self._backups = BackupJobs(settings, JobLedger(self.database)) if settings.backup_schedule else None
        known = self._backups.metadata if self._backups else dict
        self._health = HealthServices(
            settings, self.database, self.cache, partitions=self._maintainer.watch, metadata=known
        )
        self._drain = Drain()
        self._not_migrated = ""  # why
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Serve. A database that cannot be reached is waited for while serving.

        Raises MigrateError, UnfitDatabase, ListenError, TlsError.
        """
        liveness = self._health.liveness
        liveness.mark("config")
        liveness.mark("cache", message="initialised" if self.cache else "none configured")
        migrated = not self.settings.db_auto_migrate or await self._migrate()
        if migrated:
            await self._check_database()
        async with AsyncExitStack() as stack:
            await self.database.open()
            stack.push_async_callback(self.database.close)
            liveness.mark("database_pool")
            if self.cache is not None:
                self.cache.start()
                stack.push_async_callback(self.cache.stop)
            if not migrated:
                stack.push_async_callback(_end, asyncio.create_task(self._migrate_in_the_end()))
            stack.callback(BACKUPS.tell, None)
            jobs = JobRunner(self._jobs(), JobLedger(self.database))
            jobs.start()
            stack.push_async_callback(jobs.stop)
            self._publish(stack)
            await self._health.monitor.start()
            stack.push_async_callback(self._health.monitor.stop)
            if self._health.sharing is not None:
                self._health.sharing.start()
                stack.push_async_callback(self._health.sharing.stop)
            stack.push_async_callback(self._health.probes.stop)
            self.http_port = await self._listen_http()
            server = self._build_server()
            await server.start()
            stack.push_async_callback(self._stop_serving, server)
            liveness.mark("grpc_server")
            self._stack = stack.pop_all()
        listen = self.settings.grpc_listen
        _log.info("serving", version=__version__, listen=listen, port=self.port, http_port=self.http_port)

    async def stop(self) -> None:
        """Say that no more calls should come, let those in flight end, close everything; within SHUTDOWN_GRACE."""
        await self._stack.aclose()
        _log.info("stopped")

    @property
    def calls_in_flight(self) -> int:
        """How many calls are being served."""
        return self._drain.in_flight

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _build_server(self) -> grpc.aio.Server:
        services = [*(room.register for room in self._rooms), self._health.treasury]
        server, names, self.port = build_server(
            self.settings, services, infrastructure=[self._health.standard], drain=self._drain
        )
        self._health.serving.add(names)
        return server

    async def _listen_http(self) -> int:
        address = self.settings.http_listen
        try:
            return await self._health.probes.start(parse_host_port(address))
        except OSError as error:
            raise cannot_listen(setting="HTTP_LISTEN", address=address) from error

    def _publish(self, stack: AsyncExitStack) -> None:
        """Let the metrics tell of this application until it stops."""
        BUILD.info({"version": __version__})
        CALLS_LIMIT.set(self.settings.max_concurrent_calls)
        QUERIES.slow_after = self.settings.db_slow_query_ms / 1000
        for target in self.database.targets:
            stack.callback(publish(target))
        HEALTH.add(self._health.metrics)
        stack.callback(HEALTH.remove, self._health.metrics)

    def _jobs(self) -> list[Job]:
        backups = [self._backups.making, self._backups.looking] if self._backups else []
        common = [*self._maintainer.jobs, cache_upkeep(self.database), *backups]
        return [*common, *(job for room in self._rooms for job in room.jobs)]

    async def _stop_serving(self, server: grpc.aio.Server) -> None:
        """Readiness first, and time for balancers to see it; then no new calls, and the end of those in flight."""
        clock = asyncio.get_running_loop().time
        end = clock() + self.settings.shutdown_grace * _FOR_CALLS
        _log.info("draining", grace=self.settings.shutdown_grace, delay=self.settings.shutdown_delay)
        self._health.monitor.begin_shutdown()
        await asyncio.sleep(min(self.settings.shutdown_delay, end - clock()))
        self._drain.begin()
        try:
            async with asyncio.timeout_at(end):
                await self._drain.finished()
        except TimeoutError:
            _log.warning("calls are cut off", in_flight=self._drain.in_flight)
        # What is left is answers on their way, and calls that are cancelled now: their transactions are rolled back.
        await server.stop(min(max(0.0, end - clock()), _ON_THEIR_WAY))
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLEAN_UP):
                await self._drain.idle()

    async def _migrate(self) -> bool:
        """Apply what is missing; False when the database cannot be reached now."""
        try:
            steps = await asyncio.to_thread(migrate_up, migration_target(self.settings), on_wait=_tell_wait)
        except DatabaseUnreachable as error:
            cause = error_category(error.__cause__) if isinstance(error.__cause__, psycopg.Error) else OTHER
            if cause != self._not_migrated:
                _log.warning("the database cannot be migrated now", cause=cause)
            self._not_migrated = cause
            return False
        for step in steps:
            _log.info("migrated", migration=str(step.migration), duration_ms=step.duration_ms)
        return True

    async def _check_database(self) -> None:
        """Raises UnfitDatabase. One that cannot be reached now is checked by each connection that is made later."""
        try:
            connection = await self.database.primary.connector.open("vsyncd start")
        except UnfitDatabase:
            raise
        except psycopg.Error:
            return
        await connection.close()

    async def _migrate_when_possible(self) -> None:
        while not await self._migrate():
            await asyncio.sleep(_MIGRATION_RETRY)
            await self.database.primary.answers()  # until then its monitor alone tries it

    async def _migrate_in_the_end(self) -> None:
        """While serving, which is in vain until then: nobody is there to be told of an error but the log, and somebody
        may mend its cause, or another instance be done."""
        while True:
            try:
                return await self._migrate_when_possible()
            except (MigrateError, ConfigError) as error:
                _log.error("the database cannot be migrated", error=str(error))
                await asyncio.sleep(_MIGRATION_PAUSE)


OnServing = Callable[[Application], None]


def _tell_wait(place: str) -> None:
    _log.warning("a migration waits for a lock", place=place)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _serve(settings: Settings, *, embedded: "EmbeddedServers | None", on_serving: OnServing | None) -> int:
    signals = StopSignals(most=settings.shutdown_grace + _OVERDUE)
    async with AsyncExitStack() as stack:
        if embedded is not None:
            stack.push_async_callback(embedded.stop)
            if not await signals.unless_asked(embedded.start()):
                return 0
            settings = embedded.configure(settings)
        application = Application(settings)
        if await signals.unless_asked(application.start()):
            stack.push_async_callback(application.stop)
            if on_serving is not None:
                on_serving(application)
            # A stop ends the supervision first: no server is restarted during a shutdown.
            await (signals.wait() if embedded is None else signals.unless_asked(embedded.supervision()))
    return 0


def serve(settings: Settings, *, embedded: "EmbeddedServers | None" = None, on_serving: OnServing | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit code. See StopSignals for a second signal.

    `embedded` servers take the place of the configured database and cache. `on_serving` is called once calls are
    answered. Raises what stops a start: TracingError, MigrateError, UnfitDatabase, ListenError, TlsError,
    EmbeddedError; and RestartsFailed when an embedded server cannot be kept running.
    """
    with core_log(most=settings.log_failures_per_second):
        logs.configure(level=settings.log_level, form=settings.log_format)
        with tracing(os.environ):
            return uvloop.run(_serve(settings, embedded=embedded, on_serving=on_serving))
