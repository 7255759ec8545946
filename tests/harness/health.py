"""A server with the health services, and a database that a test can stop and freeze."""

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
from vsyncd.health.checkers import MissingMigrations, PostgresChecker
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.monitor import HealthMonitor
from vsyncd.health.process import ProcessResources
from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.service import COMPONENTS, HealthService, Liveness, Reports
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
    """A running server, with its stubs and components."""

    channel: grpc.aio.Channel
    treasury: "Treasury"
    standard: Any  # a HealthStub of grpc_health, whose published types have no methods
    pool: Database
    board: DependencyRegistry
    status: ServingStatus
    monitor: HealthMonitor
    liveness: Liveness

    async def check(self, name: str) -> int:
        """Returns the status of a name in grpc.health.v1."""
        return int((await self.standard.Check(standard.HealthCheckRequest(service=name))).status)

    async def turns(self, status: int) -> None:
        """Waits until Watch reports this status for every name but liveness."""
        for name in NAMES:
            watch = self.standard.Watch(standard.HealthCheckRequest(service=name))
            while (await watch.read()).status != status:
                pass
            watch.cancel()


@contextlib.asynccontextmanager
async def healthy(
    settings: Settings, *, missing_migrations: MissingMigrations = no_migrations, interval: float = 0.05
) -> AsyncIterator[Healthy]:
    """Serves Health and grpc.health.v1, with a short `interval` between rounds of checks."""
    async with opened(settings) as pool:
        checker = PostgresChecker(settings, pool.primary, missing_migrations=missing_migrations)
        board = DependencyRegistry(
            [checker], timeout=settings.health_check_timeout, max_age=settings.health_cache_seconds
        )
        status, liveness = ServingStatus(), Liveness()
        monitor = HealthMonitor(board, status, interval=interval)
        for component in COMPONENTS:
            liveness.mark(component)
        reports = Reports(board, liveness, status, ProcessResources(settings))
        services = [partial(treasury_grpc.add_HealthServicer_to_server, HealthService(board, reports))]
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
        await monitor.stop()  # last, as in the application, because a call may still begin a check


class Outage:
    """A private database that a test can stop, freeze and start again.

    A separate process starts it. PostgreSQL is started as another user by a fork, which is unsafe in a process with
    gRPC.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._held = contextlib.ExitStack()
        self.conninfo = ""

    @property
    def url(self) -> str:
        """The database's URL, which is the same after each start."""
        parts = conninfo_to_dict(self.conninfo)
        return f"postgresql://{parts['user']}@/{parts['dbname']}?host={quote(str(parts['host']))}&port={parts['port']}"

    def start_now(self) -> None:
        """Starts it."""
        self.conninfo = self._held.enter_context(Owner(self._data_dir)).answer()["conninfo"]

    def stop_now(self) -> None:
        """Stops it."""
        self._held.close()

    async def start(self) -> None:
        """Starts it without blocking the event loop."""
        await asyncio.to_thread(self.start_now)

    async def stop(self) -> None:
        """Stops it without blocking the event loop."""
        await asyncio.to_thread(self.stop_now)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspends all of its processes: it accepts connections, but never answers."""
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
