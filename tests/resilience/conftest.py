"""A PostgreSQL server per worker, which tests may break and leave running, and a database per test."""

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import grpc
import pytest
from psycopg.conninfo import make_conninfo
from vsync.v1 import cid_pb2_grpc
from vsyncd.app import Application
from vsyncd.config import Settings
from vsyncd.domains.registry import load_settings
from vsyncd.postgres.database_server import DatabaseServer

from tests.harness.cids import Stub, until
from tests.harness.clusters import OWNER, PASSWORD, SERVICE, Clusters, Database, make_roles, migrate
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import Agent, PrivateServer
from tests.harness.recorded_writes import TRANSIENT_ERRORS, RecordedWrites, code_and_reason
from tests.harness.recovery import FaultReport
from tests.harness.stopwatch import now

_TEMPLATE = "vsync_template"
DEADLINE = 2.0
# Long timeouts, for tests of faults that callers must not notice: a slow machine must not look like a fault.
PATIENT: Final[dict[str, Any]] = {
    "db_connect_timeout": 20,
    "db_acquire_timeout": 20,
    "db_ping_timeout": 20,
    "health_check_timeout": 10,
}
patient: Final = pytest.mark.settings.with_args(**PATIENT)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "settings(name=value): settings of vsyncd for this test, by attribute")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make soak` runs all of these tests, `make test` those that are not marked soak."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("resilience")


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> FaultReport:
    """Records the figures of a fault."""
    return FaultReport(record_property)


@pytest.fixture(scope="session")
def agent() -> Iterator[Agent]:
    """Runs PostgreSQL's programs in a folder that is deleted at the end."""
    clusters = Clusters()
    agent = Agent(clusters.folder)
    yield agent
    agent.close()
    shutil.rmtree(agent.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_server(agent: Agent) -> PrivateServer:
    """The worker's server, with a migrated template database."""
    server = PrivateServer.fresh(agent, "shared")
    server.start()
    make_database(server, _TEMPLATE)
    return server


@pytest.fixture
def server(shared_server: PrivateServer) -> Iterator[PrivateServer]:
    """A running server. The test may break it in any way that a restart repairs."""
    if not shared_server.running:
        shared_server.start()
    yield shared_server
    if not shared_server.running:
        shared_server.start()


@pytest.fixture
def database(server: PrivateServer) -> Iterator[Database]:
    """A migrated database for this test."""
    name = f"test_{secrets.token_hex(6)}"
    server.execute(f'CREATE DATABASE "{name}" OWNER "{OWNER}" TEMPLATE "{_TEMPLATE}" STRATEGY file_copy')
    yield describe(server, name)
    if not server.running:
        server.start()
    server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def make_database(server: PrivateServer, name: str, *, tablespace: str = "pg_default") -> Database:
    """Creates the roles and the first database of a new server, and migrates it."""
    make_roles(server.admin("postgres"))
    server.execute(f'CREATE DATABASE "{name}" OWNER "{OWNER}" TABLESPACE {tablespace}')
    database = describe(server, name)
    migrate(database)
    return database


def caught_up(server: PrivateServer, replica: PrivateServer) -> None:
    """Waits until the replica has replayed everything that the server has written so far."""
    ((lsn,),) = server.execute("SELECT pg_current_wal_lsn()")
    deadline = time.monotonic() + 60
    while not replica.execute(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'")[0][0]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def describe(server: PrivateServer, name: str) -> Database:
    """Returns the conninfo strings of a database on a server."""
    return Database(
        name=name,
        version=18,
        admin=server.admin(name),
        owner=make_conninfo(server.admin(name), user=OWNER, password=PASSWORD),
        service=make_conninfo(server.admin(name), user=SERVICE, password=PASSWORD),
    )


def settings_of(url: str, **overrides: Any) -> Settings:
    """Settings with short timeouts."""
    given: dict[str, Any] = {
        "database_url": url,
        "db_auto_migrate": False,
        "db_min_connections": 2,
        "db_max_connections": 8,
        "db_connect_timeout": 2,
        "db_acquire_timeout": 1,
        "db_ping_timeout": 1.5,
        "db_breaker_reset": 0.5,
        "grpc_listen": "127.0.0.1:0",
        "http_listen": "127.0.0.1:0",
        "shutdown_grace": 1,
    }
    return load_settings(**given | overrides)


def proxy_url(database: Database, *ports: int) -> str:
    """Returns the URL of a database behind proxies on these ports."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"postgresql://{SERVICE}:{quote(PASSWORD)}@{hosts}/{database.name}?sslmode=disable"


@pytest.fixture
def overrides(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings that differ from the tests' defaults: those of the marker `settings`."""
    marker = request.node.get_closest_marker("settings")
    return dict(marker.kwargs) if marker else {}


@pytest.fixture
async def proxy(server: PrivateServer) -> AsyncIterator[FaultProxy]:
    """A proxy between vsyncd and the server."""
    async with FaultProxy(server.socket) as proxy:
        yield proxy


@pytest.fixture
async def application(database: Database, proxy: FaultProxy, overrides: dict[str, Any]) -> AsyncIterator[Application]:
    """A vsyncd behind the proxy. It must leave no tasks behind when it stops."""
    before = asyncio.all_tasks()
    async with Application(settings_of(proxy_url(database, proxy.port), **overrides)) as application:
        yield application
    leaked = {task for task in asyncio.all_tasks() - before if task.get_name().startswith(("primary", "replica"))}
    assert not leaked


@contextlib.asynccontextmanager
async def cids_of(application: Application) -> AsyncIterator[Stub]:
    """A stub of an application's CidService."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        yield cid_pb2_grpc.CidServiceStub(channel)


@pytest.fixture
async def cids(application: Application) -> AsyncIterator[Stub]:
    """A stub of the CidService of `application`."""
    async with cids_of(application) as stub:
        yield stub


@contextlib.asynccontextmanager
async def load(cids: Stub, *, callers: int = 16, deadline: float = DEADLINE) -> AsyncIterator[RecordedWrites]:
    """Callers that write from before the block until its end. Each attempt has `deadline` seconds."""
    writes = RecordedWrites(cids, deadline=deadline)
    async with writes.running(callers):
        await writes.progress(20)
        yield writes


async def first_good_answer(call: Callable[[], Awaitable[Any]]) -> float:
    """Calls until a call succeeds and returns the seconds until then. Only errors in TRANSIENT_ERRORS may occur."""
    began = now()
    async with asyncio.timeout(60):
        while True:
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                if code_and_reason(error) not in TRANSIENT_ERRORS:
                    raise
                await asyncio.sleep(0.02)
            else:
                return now() - began


async def at_baseline(application: Application) -> None:
    """Waits until no connection is in use, requested or missing, and the breaker is closed."""
    primary = application.database.primary
    pool = primary.pool

    def idle() -> bool:
        stats = pool.get_stats()
        is_unused = not (pool.in_use or primary.active_tasks or stats["requests_waiting"])
        is_complete = stats["pool_size"] == stats["pool_available"] > 0
        return is_unused and primary.breaker.closed and is_complete

    await until(idle)


async def monitored(server: DatabaseServer, times: int = 3) -> None:
    """Waits until the monitor has updated the server's status this many times."""
    for _ in range(times):
        before = server.last_status
        await until(lambda before=before: server.last_status is not before)  # type: ignore[misc]
