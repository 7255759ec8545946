"""A replica of the worker's server, and a vsyncd that reads from it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from vsync.health.v1 import health_pb2 as health
from vsync.health.v1 import health_pb2_grpc as health_grpc
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import Stub, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.resilience.conftest import PATIENT, caught_up, proxy_url, settings_of

# DB_REPLICA_MAX_LAG: longer than any test, except those that set it.
MAX_LAG_S = 30


@pytest.fixture(scope="module")
def shared_replica(shared_server: PrivateServer) -> Iterator[PrivateServer]:
    """A replica of the worker's server."""
    if not shared_server.running:
        shared_server.start()
    replica = shared_server.replicate("replica")
    replica.start()
    yield replica
    replica.remove()  # the next module creates its own


@pytest.fixture
def replica(database: Database, server: PrivateServer, shared_replica: PrivateServer) -> Iterator[PrivateServer]:
    """The replica, after it has replayed the creation of the test's database."""
    assert database.version == 18
    caught_up(server, shared_replica)
    yield shared_replica
    if not shared_replica.running:
        shared_replica.start()
    shared_replica.execute("SELECT pg_wal_replay_resume()")


@pytest.fixture
async def replica_proxy(replica: PrivateServer) -> AsyncIterator[FaultProxy]:
    """A proxy between vsyncd and the replica."""
    async with FaultProxy(replica.socket) as proxy:
        yield proxy


@pytest.fixture
async def application(
    database: Database, proxy: FaultProxy, replica_proxy: FaultProxy, overrides: dict[str, Any]
) -> AsyncIterator[Application]:
    """A vsyncd behind both proxies, with the replica in use."""
    given: dict[str, Any] = {
        "db_replica_hosts": f"127.0.0.1:{replica_proxy.port}",
        "db_replica_max_lag": MAX_LAG_S,
        "health_cache_seconds": 0,
        **PATIENT,
    }
    async with Application(settings_of(proxy_url(database, proxy.port), **given | overrides)) as application:
        await replica_in_use(application)
        yield application


async def replica_in_use(application: Application, *, in_use: bool = True) -> None:
    """Waits until the replica receives reads, or no longer does."""
    router = application.database.router
    await until(lambda: router.is_usable(router.replicas[0]) is in_use)


def pool_requests(application: Application) -> tuple[int, int]:
    """Returns the number of requests to the pools of the primary and the replica."""
    primary, replica = (server.pool.get_stats().get("requests_num", 0) for server in application.database.servers)
    return primary, replica


async def total(cids: Stub, **options: Any) -> int:
    """Returns the result of CountCids."""
    return int((await cids.CountCids(pb.CountCidsRequest(), **options)).total)


async def replicated(cids: Stub, count: int) -> None:
    """Waits until the replica has this number of records."""
    async with asyncio.timeout(60):
        while await total(cids) != count:  # noqa: ASYNC110  a replica has no event to wait for
            await asyncio.sleep(0.02)


async def health_of(application: Application) -> health.HealthResponse:
    """Returns the answer of GetHealth."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        stub = health_grpc.HealthStub(channel)
        response: health.HealthResponse = await stub.GetHealth(health.HealthRequest(include_details=True))
        return response


async def health_becomes(application: Application, status: int) -> health.HealthResponse:
    """Waits until GetHealth reports this status, and returns its answer."""
    async with asyncio.timeout(60):
        while (report := await health_of(application)).status != status:  # noqa: ASYNC110  no event
            await asyncio.sleep(0.05)
    return report
