"""The composition root: builds every part of the service, starts them in order and stops them in reverse.

The domains come from the registry (vsyncd.domains.registry).
"""

import asyncio
import os
import resource
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Self

import grpc
import psycopg
import uvloop
from vsync.v1.status_pb2_grpc import add_StatusServiceServicer_to_server

from vsyncd import __version__
from vsyncd.access.control import AccessControl
from vsyncd.access.denials import Denials
from vsyncd.access.watched_files import WatchedFiles
from vsyncd.cache.wiring import CacheServices
from vsyncd.config import Settings
from vsyncd.config.errors import StartError
from vsyncd.core.context import log_fields
from vsyncd.core.errors import ServiceError
from vsyncd.core.tenants import TenantKeyDiffers
from vsyncd.domains.audit.denials import DenialRecorder
from vsyncd.domains.domain import BuiltDomain, Dependencies
from vsyncd.domains.registry import check_tenants, select_domains, unselected_sets
from vsyncd.health.checkers import AccessChecker
from vsyncd.health.metrics import HEALTH
from vsyncd.health.wiring import HealthServices
from vsyncd.http.listeners import HttpListeners
from vsyncd.http.operations import OperationsPage
from vsyncd.http.probes import Probes
from vsyncd.jobs.backups import BackupJobs
from vsyncd.jobs.ledger import JobLedger
from vsyncd.jobs.maintenance.maintainer import Maintainer
from vsyncd.jobs.migrations import SchemaVersions, StartupMigration
from vsyncd.jobs.runner import Job, JobRunner
from vsyncd.observability import logs
from vsyncd.observability.job_metrics import BACKUPS
from vsyncd.observability.metrics import BUILD, CALLS_LIMIT, QUERIES
from vsyncd.observability.tracing import tracing
from vsyncd.postgres.database import CORE_SET, Database
from vsyncd.postgres.error_mapping import service_error
from vsyncd.postgres.mutations import Mutations
from vsyncd.postgres.tenancy import Tenancy
from vsyncd.resilience.tasks import cancel_and_wait
from vsyncd.session_settings import UnfitDatabase
from vsyncd.signals import StopSignals
from vsyncd.status.collector import Reader, StatusCollector
from vsyncd.status.sections import CoreSections
from vsyncd.status.service import STATUS_SERVICE, StatusService
from vsyncd.transport.core_log import core_log
from vsyncd.transport.draining import Drain
from vsyncd.transport.server import build_health_server, build_server

if TYPE_CHECKING:  # an optional extra
    from vsyncd.embedded_servers import EmbeddedServers

# The services of this package are served without a domain, and so is GetStatus.
_HEALTH_SERVICE: Final = "vsync.health.v1.Health"
# The share of SHUTDOWN_GRACE for calls in flight; the rest is for closing connections.
_CALLS_SHARE: Final = 0.9
# Maximum time, within that share, to flush responses to slow readers.
_FLUSH_S: Final = 3.0
# Time for cancelled calls to roll back.
_ROLLBACK_S: Final = 1.0
# A process that still runs this long after SHUTDOWN_GRACE is ended.
_OVERDUE_S: Final = 2.0
# Files and connections other than those of gRPC clients.
_OTHER_FILES: Final = 2048

_log = logs.logger(__name__)


class Application:
    """One vsyncd with one database.

    `async with` starts and stops it. Then it serves gRPC on `port`, also on `token_port` with GRPC_TOKEN_LISTEN, and
    on `http.port` and `http.admin_port`; grpc.health.v1 also on `grpc_health_port` with GRPC_HEALTH_LISTEN.
    Raises ConfigError if DOMAINS names an unknown domain or one that needs a tenant key, and as AccessControl.
    """

    def __init__(self, settings: Settings, *, database: Callable[[Settings], Database] = Database) -> None:
        self.settings = settings
        self.port = self.token_port = self.grpc_health_port = 0
        self.access = access = AccessControl(settings)
        self._denials = Denials()
        self._has_tenants = check_tenants(settings)
        self.database = database(settings)
        self._tenancy = Tenancy(settings, self.database)
        self.cache = CacheServices(settings, self.database) if settings.has_cache else None
        self._cache_keys = self._watch_cache_keys()
        self._unselected_sets = unselected_sets(settings.domains)
        versions = SchemaVersions(settings, without=self._unselected_sets)
        self._set_of_service = {_HEALTH_SERVICE: CORE_SET, STATUS_SERVICE: CORE_SET}
        self._domains = self._build_domains(versions)
        self._maintainer = Maintainer(settings, self.database)
        self._backups = BackupJobs(settings, JobLedger(self.database)) if settings.backup_schedule else None
        self._health = HealthServices(
            settings,
            self.database,
            self.cache,
            missing_migrations=versions.missing,
            warning=self._maintainer.watch.warning,
            metadata=self._database_metadata,
            further=[AccessChecker(access.warnings, access.summary)] if access.is_configured else [],
        )
        self._status = StatusCollector(
            self.database, self._health.reports, self._maintainer.watch, self._sections(versions)
        )
        probes = Probes(self._health.registry, self._health.reports)
        self.http = HttpListeners(settings, probes, OperationsPage(self._status.status))
        self._drain = Drain()
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Starts to serve, even while the database is unreachable.

        Raises MigrateError, UnfitDatabase, StartError.
        """
        liveness = self._health.liveness
        liveness.mark("config")
        liveness.mark("cache", message="initialised" if self.cache else "none configured")
        migration = StartupMigration(self.settings, self.database, without=self._unselected_sets)
        migrated = not self.settings.db_auto_migrate or await migration.run()
        if migrated:
            await self._check_database()
        async with AsyncExitStack() as stack:
            await self.database.open()
            stack.push_async_callback(self.database.close)
            liveness.mark("database_pool")
            if self.cache is not None:
                self.cache.start(invalidate=self._caches_records)
                stack.push_async_callback(self.cache.stop)
            if not migrated:
                stack.push_async_callback(cancel_and_wait, [asyncio.create_task(migration.run_until_done())])
            stack.callback(BACKUPS.set, None)
            self._start_access_control(stack)
            jobs = JobRunner(self._jobs(), JobLedger(self.database))
            jobs.start()
            stack.push_async_callback(jobs.stop)
            for background in (each for domain in self._domains for each in domain.background):
                background.start()
                stack.push_async_callback(background.stop)
            self._publish(stack)
            await self._health.monitor.start()
            stack.push_async_callback(self._health.monitor.stop)
            if self._health.sharing is not None:
                self._health.sharing.start()
                stack.push_async_callback(self._health.sharing.stop)
            self._status.start()
            stack.push_async_callback(self._status.stop)
            stack.push_async_callback(self.http.stop)
            await self.http.start()
            await self._start_health_server(stack)
            server = self._build_server()
            await server.start()
            stack.push_async_callback(self._stop_serving, server)
            liveness.mark("grpc_server")
            self._stack = stack.pop_all()
        domains = [domain.name for domain in select_domains(self.settings.domains)]
        _log.info(
            "serving",
            version=__version__,
            listen=self.settings.grpc_listen,
            port=self.port,
            http_port=self.http.port,
            admin_port=self.http.admin_port,
            domains=domains,
        )

    def reload(self) -> None:
        """Reads certificates, keys and other files of access control again."""
        self.access.reload()

    async def stop(self) -> None:
        """Turns not ready, lets the calls in flight end and closes everything, within SHUTDOWN_GRACE."""
        await self._stack.aclose()
        _log.info("stopped")

    @property
    def calls_in_flight(self) -> int:
        """The number of calls that are being served."""
        return self._drain.in_flight

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _build_domains(self, versions: SchemaVersions) -> list[BuiltDomain]:
        selected = [(registered, registered.load()) for registered in select_domains(self.settings.domains)]
        # The other domains have neither cached records nor the change feed's tables.
        self._caches_records = any(domain.changes_cached_records for _, domain in selected)
        self._set_of_service |= {
            service: registered.migration_set for registered, domain in selected for service in domain.services
        }
        built = []
        for registered, domain in selected:
            database = self.database.for_domain(
                migration_set=registered.migration_set, changes_cached_records=domain.changes_cached_records
            )
            dependencies = Dependencies(
                settings=self.settings,
                database=database,
                mutations=Mutations(database),
                tenancy=self._tenancy,
                schema_versions=versions,
                cache=self.cache,
                domains=[other.name for other, _ in selected],
                services=list(self._set_of_service),
            )
            built.append(domain.build(dependencies))
        return built

    def _sections(self, versions: SchemaVersions) -> dict[str, Reader]:
        """Returns the sections of GetStatus that are read from the database. The largest ones are the last."""
        core = CoreSections(self.settings.db_schema, versions).readers
        return core | {name: read for domain in self._domains for name, read in domain.status.items()}

    def _database_metadata(self) -> dict[str, str]:
        """Returns what health reports about the primary besides its checks."""
        return {**(self._backups.metadata() if self._backups else {}), **self._maintainer.watch.metadata()}

    def _build_server(self) -> grpc.aio.Server:
        registrations = [each for domain in self._domains for each in domain.registrations]
        status = partial(add_StatusServiceServicer_to_server, StatusService(self._status))
        server, self.port, self.token_port = build_server(
            self.settings,
            [*registrations, self._health.treasury, status],
            infrastructure=[self._health.standard],
            translate=_translate,
            drain=self._drain,
            access=self.access,
            denials=self._denials,
        )
        self._health.serving.add(self._set_of_service)
        return server

    def _watch_cache_keys(self) -> WatchedFiles[list[bytes]] | None:
        """Makes access control watch CACHE_ENCRYPTION_KEY_FILE."""
        path = self.settings.cache_encryption_key_file
        if self.cache is None or path is None:
            return None
        files = {"CACHE_ENCRYPTION_KEY_FILE": path}
        watched = WatchedFiles(files, lambda _content: self.settings.cache_encryption_keys)
        self.access.also_watch(watched)
        return watched

    def _files_changed(self) -> None:
        if self.cache is not None and self._cache_keys is not None:
            self.cache.use_encryption_keys(self._cache_keys.value)
        self._health.monitor.check_now()

    def _start_access_control(self, stack: AsyncExitStack) -> None:
        """Starts to watch the files, and to record denied calls."""
        recorder = DenialRecorder(self.database)
        stack.push_async_callback(self._denials.finish, recorder.record)
        for work in (self.access.watch(self._files_changed), self._denials.run(recorder.record)):
            stack.push_async_callback(cancel_and_wait, [asyncio.create_task(work)])

    async def _start_health_server(self, stack: AsyncExitStack) -> None:
        """Starts the server of GRPC_HEALTH_LISTEN, which stops after the other gRPC server."""
        if (address := self.settings.grpc_health_listen) is not None:
            server, self.grpc_health_port = build_health_server(self.settings, address, self._health.standard)
            await server.start()
            stack.push_async_callback(server.stop, None)

    def _publish(self, stack: AsyncExitStack) -> None:
        """Publishes this application in the metrics until it stops."""
        BUILD.info({"version": __version__})
        CALLS_LIMIT.set(self.settings.max_concurrent_calls)
        QUERIES.slow_after = self.settings.db_slow_query_ms / 1000
        for server in self.database.servers:
            stack.callback(server.publish_metrics())
        stack.callback(HEALTH.publish(self._health.registry, self._health.serving))

    def _jobs(self) -> list[Job]:
        backups = [self._backups.backup_job, self._backups.status_job] if self._backups else []
        return [*self._maintainer.jobs, *backups, *(job for domain in self._domains for job in domain.jobs)]

    async def _stop_serving(self, server: grpc.aio.Server) -> None:
        """Turns not ready, waits for load balancers to notice, refuses new calls, and waits for those in flight."""
        clock = asyncio.get_running_loop().time
        end = clock() + self.settings.shutdown_grace * _CALLS_SHARE
        _log.info("draining", grace=self.settings.shutdown_grace, delay=self.settings.shutdown_delay)
        self._health.monitor.begin_shutdown()
        await asyncio.sleep(min(self.settings.shutdown_delay, end - clock()))
        self._drain.begin()
        try:
            async with asyncio.timeout_at(end):
                await self._drain.finished()
        except TimeoutError:
            _log.warning("calls are cut off", in_flight=self._drain.in_flight)
        # Flushes the remaining responses, and cancels the remaining calls: their transactions are rolled back.
        await server.stop(min(max(0.0, end - clock()), _FLUSH_S))
        with suppress(TimeoutError):
            async with asyncio.timeout(_ROLLBACK_S):
                await self._drain.idle()

    async def _check_database(self) -> None:
        """Raises UnfitDatabase, and StartError if the database was written with another tenant key.

        If the database is unreachable, each later connection checks the former, and each call of a domain with tenants
        the latter.
        """
        try:
            async with await self.database.primary.connector.connect("vsyncd start") as connection:
                if self._has_tenants:
                    await self._tenancy.check_key(connection)
        except UnfitDatabase:
            raise
        except psycopg.Error:
            return
        except TenantKeyDiffers as error:
            raise StartError(f"TENANT_HMAC_KEY_FILE: {error.message}") from error


OnServing = Callable[[Application], None]


def _translate(error: Exception) -> ServiceError | None:
    return service_error(error) if isinstance(error, psycopg.Error) else None


async def _serve(settings: Settings, *, embedded: "EmbeddedServers | None", on_serving: OnServing | None) -> int:
    signals = StopSignals(timeout=settings.shutdown_grace + _OVERDUE_S)
    async with AsyncExitStack() as stack:
        if embedded is not None:
            stack.push_async_callback(embedded.stop)
            if not await signals.run_until_stopped(embedded.start()):
                return 0
            settings = embedded.configure(settings)
        application = Application(settings)
        signals.on_reload = application.reload
        if await signals.run_until_stopped(application.start()):
            stack.push_async_callback(application.stop)
            if on_serving is not None:
                on_serving(application)
            # A stop ends the supervision first, so that no server is restarted during a shutdown.
            await (signals.wait() if embedded is None else signals.run_until_stopped(embedded.supervision()))
    return 0


def _raise_files_limit(max_connections: int) -> None:
    """Raises the soft limit of open files, often 1,024, for this number of connections. They would otherwise use up the
    files that probes and the database need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        needed = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def serve(
    settings: Settings,
    *,
    notes: Iterable[str] = (),
    embedded: "EmbeddedServers | None" = None,
    on_serving: OnServing | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT, and returns the process's exit code. See StopSignals for a second signal.

    `notes` about the settings are logged. `embedded` servers replace the configured database and cache. `on_serving` is
    called once calls are answered. Raises ConfigError, StartError, MigrateError and UnfitDatabase if the start fails,
    and EmbeddedError, also if an embedded server cannot be kept running.
    """
    _raise_files_limit(settings.max_connections)
    with core_log(max_per_second=settings.log_failures_per_second):
        logs.configure(level=settings.log_level, form=settings.log_format, context=log_fields)
        for note in notes:
            _log.warning("settings", note=note)
        with tracing(os.environ):
            return uvloop.run(_serve(settings, embedded=embedded, on_serving=on_serving))
