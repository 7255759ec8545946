"""A server that serves its health, over a database that a test can stop and freeze."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
import psutil
from grpc_health.v1 import health_pb2 as standard
from grpc_health.v1 import health_pb2_grpc as standard_grpc
from psycopg.conninfo import conninfo_to_dict
from vsync.health.v1 import health_pb2_grpc as treasury_grpc
from vsyncd.config import Settings
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.liveness import COMPONENTS, Liveness
from vsyncd.health.monitor import HealthMonitor
from vsyncd.health.postgres import MissingMigrations, PostgresChecker
from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.reports import Reports
from vsyncd.health.service import HealthService
from vsyncd.postgres.database import Database

from tests.harness.owners import Owner, postmaster_pid
from tests.harness.serving import opened, serving

if TYPE_CHECKING:
    from vsync.health.v1.health_pb2_grpc import HealthAsyncStub as Treasury

NAMES = ("", "readiness", "vsync.health.v1.Health")


async def no_migrations(_connection: object) -> Mapping[str, int]:
    """Every migration is applied."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Healthy:
    """A running server: what a caller sees of it, and its parts."""

    channel: grpc.aio.Channel
    treasury: "Treasury"
    standard: Any  # a HealthStub of grpc_health, whose published types know no methods
    pool: Database
    board: DependencyRegistry
    status: ServingStatus
    monitor: HealthMonitor
    liveness: Liveness

    async def check(self, name: str) -> int:
        """What grpc.health.v1 says of a name."""
        return int((await self.standard.Check(standard.HealthCheckRequest(service=name))).status)

    async def turns(self, status: int) -> None:
        """Wait until every name but liveness has this status, as a watcher hears of it."""
        for name in NAMES:
            watch = self.standard.Watch(standard.HealthCheckRequest(service=name))
            while (await watch.read()).status != status:
                pass
            watch.cancel()


@contextlib.asynccontextmanager
async def healthy(
    settings: Settings, *, missing_migrations: MissingMigrations = no_migrations, interval: float = 0.05
) -> AsyncIterator[Healthy]:
    """Serve Health and grpc.health.v1. `interval` between rounds is short, for the tests' sake."""
    async with opened(settings) as pool:
        checker = PostgresChecker(settings, pool_stats=pool.pool.get_stats, missing_migrations=missing_migrations)
        board = DependencyRegistry(
            [checker], timeout=settings.health_check_timeout, max_age=settings.health_cache_seconds
        )
        status, liveness = ServingStatus(), Liveness()
        monitor = HealthMonitor(board, status, interval=interval)
        for component in COMPONENTS:
            liveness.mark(component)
        services = [
            partial(treasury_grpc.add_HealthServicer_to_server, HealthService(board, Reports(board, liveness, status)))
        ]
        infrastructure = [partial(standard_grpc.add_HealthServicer_to_server, status)]
        async with serving(settings, services, infrastructure) as channel:
            status.add({"vsync.health.v1.Health": "core"})
            await monitor.start()
            yield Healthy(
                channel=channel,
                treasury=treasury_grpc.HealthStub(channel),
                standard=standard_grpc.HealthStub(channel),
                pool=pool,
                board=board,
                status=status,
                monitor=monitor,
                liveness=liveness,
            )
        await monitor.stop()  # as in the application: whoever is still served may begin a check


class Outage:
    """A database of the test alone, which goes, hangs and comes back.

    Held by a process of its own: starting PostgreSQL as another user forks, which a process that speaks gRPC must not.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._held = contextlib.ExitStack()
        self.conninfo = ""

    @property
    def url(self) -> str:
        """Where the database is; the same after each start."""
        parts = conninfo_to_dict(self.conninfo)
        return f"postgresql://{parts['user']}@/{parts['dbname']}?host={quote(str(parts['host']))}&port={parts['port']}"

    def start_now(self) -> None:
        """Start it."""
        self.conninfo = self._held.enter_context(Owner(self._data_dir)).answer()["conninfo"]

    def stop_now(self) -> None:
        """Stop it."""
        self._held.close()

    async def start(self) -> None:
        """`start_now`, beside a loop."""
        await asyncio.to_thread(self.start_now)

    async def stop(self) -> None:
        """`stop_now`, beside a loop."""
        await asyncio.to_thread(self.stop_now)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """All of its processes stopped, as SIGSTOP does: it takes connections, and never answers."""
        postmaster = psutil.Process(postmaster_pid(self._data_dir))
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
