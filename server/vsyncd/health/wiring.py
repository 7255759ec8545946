"""Builds the health checks and the two health services."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server as add_standard_to_server
from vsync.health.v1.health_pb2_grpc import add_HealthServicer_to_server as add_treasury_to_server

from vsyncd.cache.wiring import CacheServices
from vsyncd.config import Settings
from vsyncd.health.checker import DependencyChecker
from vsyncd.health.grpc_dependency import GrpcChecker
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.liveness import Liveness
from vsyncd.health.metrics import HealthSource
from vsyncd.health.monitor import HealthMonitor
from vsyncd.health.peer_status import PeerStatus
from vsyncd.health.postgres import MissingMigrations, PostgresChecker
from vsyncd.health.redis import RedisChecker
from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.reports import Reports
from vsyncd.health.service import HealthService
from vsyncd.postgres.database import Database


class HealthServices:
    """The health of one process.

    `treasury` and `standard` register its gRPC services, `monitor` runs the checks, and `reports` and `metrics` publish
    the results.
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
                pool_stats=target.pool.get_stats,
                missing_migrations=missing_migrations,
                name=target.breaker.name,
                is_critical=target is database.primary,
                target=target,
                is_read_from=partial(database.router.receives_reads, target),
                warning=warning if target is database.primary else str,
                on_missing_sets=database.note_missing_sets if target is database.primary else None,
                metadata=metadata if target is database.primary else dict,
            )
            for target in database.servers
        ]
        timeout = settings.health_check_timeout
        checkers += [GrpcChecker(dependency, timeout=timeout) for dependency in settings.grpc_dependencies]
        if cache is not None:
            checkers.append(RedisChecker(cache, timeout=timeout, instances=lambda: self.instances))
        checkers += further
        self.registry = board = DependencyRegistry(checkers, timeout=timeout, max_age=settings.health_cache_seconds)
        self.reports = reports = Reports(board, self.liveness, self.serving)
        self.monitor = HealthMonitor(board, self.serving, interval=settings.db_health_check_interval)
        self.treasury: Callable[[Any], None] = partial(add_treasury_to_server, HealthService(board, reports))
        self.metrics = HealthSource(board, self.serving)
        self.sharing = PeerStatus(cache, board, self.monitor.check_now) if cache is not None else None
        if self.sharing is not None:
            for target in database.servers:
                target.breaker.on_change.append(self.sharing.publish_soon)
        self.standard: Callable[[Any], None] = partial(add_standard_to_server, self.serving)

    @property
    def instances(self) -> int:
        """The number of vsyncd instances that share the cache, including this one."""
        return self.sharing.instances if self.sharing is not None else 1
