"""Replicas that have gone another way than the primary: nobody reads from them while there is one."""

from collections.abc import Iterator

import pytest
from vsync.health.v1 import health_pb2 as health
from vsyncd.app import Application

from tests.harness.cids import Stub, create
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.resilience.conftest import caught_up, seen_more
from tests.resilience.replicas.conftest import arrived, health_of, in_use, total, turned


@pytest.fixture
def replica(database: Database, server: PrivateServer) -> Iterator[PrivateServer]:
    """A replica of this test alone, with the test's database in it."""
    assert database.version == 18
    replica = server.replicate("stray")
    replica.start()
    caught_up(server, replica)
    yield replica
    replica.remove()


async def test_a_replica_that_was_promoted_by_mistake_is_not_read_from_until_it_is_rebuilt(
    application: Application, cids: Stub, server: PrivateServer, replica: PrivateServer, proxy: FaultProxy
) -> None:
    await create(cids, [1])
    await arrived(cids, 1)
    await seen_more(application.database.replicas[0])
    await turned(application, health.HEALTHY)
    replica.execute("SELECT pg_promote()")
    await create(cids, [2])
    await in_use(application, yes=False)
    await seen_more(application.database.replicas[0])
    assert not application.database.router.read_only
    assert await total(cids) == 2
    report = await health_of(application)
    assert report.status == health.DEGRADED
    told = report.dependencies[1]
    assert (told.status, told.message) == (health.UNHEALTHY, "it is not a replica of this primary: rebuild it")
    assert "replication_lag_bytes" not in told.config.metadata
    # While there is no primary it is what there is.
    await proxy.refuse()
    await in_use(application)
    assert await total(cids) == 1
    await proxy.accept()
    await in_use(application, yes=False)
    replica.remove()
    server.replicate("stray")
    replica.start()
    await in_use(application)
    await arrived(cids, 2)
    await seen_more(application.database.replicas[0])
    await turned(application, health.HEALTHY)
