"""Builds the health checks and the two health services."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server as add_standard_to_server
from vsync.health.v1.health_pb2_grpc import add_HealthServicer_to_server as add_treasury_to_server

from vsyncd.cache.wiring import CacheServices
from vsyncd.config import Settings
from vsyncd.health.checkers import GrpcChecker, MissingMigrations, PostgresChecker, RedisChecker
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.monitor import HealthMonitor
from vsyncd.health.peer_status import PeerStatus
from vsyncd.health.process import ProcessResources
from vsyncd.health.registry import DependencyChecker, DependencyRegistry
from vsyncd.health.service import HealthService, Liveness, Reports
from vsyncd.postgres.database import Database


class HealthServices:
    """The health of one process.

    `treasury` and `standard` register its gRPC services, `monitor` runs the checks, and `reports` has the results.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        cache: CacheServices | None = None,
        *,
        missing_migrations: MissingMigrations,
        warning: Callable[[], str] = str,
        metadata: Callable[[], Mapping[str, str]] = dict,
        further: Sequence[DependencyChecker] = (),
    ) -> None:
        """`warning` and `metadata` concern the primary: see PostgresChecker. `further` are the last checkers."""
        self.liveness = Liveness()
        self.serving = ServingStatus()
        checkers: list[DependencyChecker] = [
            PostgresChecker(
                settings,
                server,
                missing_migrations=missing_migrations,
                is_read_from=partial(database.router.receives_reads, server),
                warning=warning if server is database.primary else str,
                on_missing_sets=database.note_missing_sets if server is database.primary else None,
                metadata=metadata if server is database.primary else dict,
            )
            for server in database.servers
        ]
        timeout = settings.health_check_timeout
        checkers += [GrpcChecker(dependency, timeout=timeout) for dependency in settings.grpc_dependencies]
        if cache is not None:
            checkers.append(RedisChecker(cache, timeout=timeout, instances=self._instances))
        checkers += further
        self.registry = registry = DependencyRegistry(checkers, timeout=timeout, max_age=settings.health_cache_seconds)
        self.reports = reports = Reports(registry, self.liveness, self.serving, ProcessResources(settings))
        self.monitor = HealthMonitor(registry, self.serving, interval=settings.db_health_check_interval)
        self.treasury: Callable[[Any], None] = partial(add_treasury_to_server, HealthService(registry, reports))
        self.sharing = PeerStatus(cache, registry, self.monitor.check_now) if cache is not None else None
        if self.sharing is not None:
            for server in database.servers:
                server.breaker.on_change.append(self.sharing.publish_soon)
        self.standard: Callable[[Any], None] = partial(add_standard_to_server, self.serving)

    def _instances(self) -> int:
        return self.sharing.instances if self.sharing is not None else 1
