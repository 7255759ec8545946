"""Replicas that have diverged from the primary: they receive no reads while there is a primary."""

from collections.abc import Iterator

import pytest
from vsync.health.v1 import health_pb2 as health
from vsyncd.app import Application

from tests.harness.cids import Stub, create
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.resilience.conftest import caught_up, monitored
from tests.resilience.replicas.conftest import health_becomes, health_of, replica_in_use, replicated, total


@pytest.fixture
def replica(database: Database, server: PrivateServer) -> Iterator[PrivateServer]:
    """A replica for this test, with the test's database."""
    assert database.version == 18
    replica = server.replicate("stray")
    replica.start()
    caught_up(server, replica)
    yield replica
    replica.remove()


async def test_a_replica_that_was_promoted_by_mistake_receives_no_reads_until_it_is_rebuilt(
    application: Application, cids: Stub, server: PrivateServer, replica: PrivateServer, proxy: FaultProxy
) -> None:
    await create(cids, [1])
    await replicated(cids, 1)
    await monitored(application.database.replicas[0])
    await health_becomes(application, health.HEALTHY)
    replica.execute("SELECT pg_promote()")
    await create(cids, [2])
    await replica_in_use(application, in_use=False)
    await monitored(application.database.replicas[0])
    assert not application.database.router.read_only
    assert await total(cids) == 2
    report = await health_of(application)
    assert report.status == health.DEGRADED
    replica_health = report.dependencies[1]
    assert (replica_health.status, replica_health.message) == (
        health.UNHEALTHY,
        "it is not a replica of this primary: rebuild it",
    )
    assert "replication_lag_bytes" not in replica_health.config.metadata
    # It is used while there is no primary.
    await proxy.refuse()
    await replica_in_use(application)
    assert await total(cids) == 1
    await proxy.accept()
    await replica_in_use(application, in_use=False)
    replica.remove()
    server.replicate("stray")
    replica.start()
    await replica_in_use(application)
    await replicated(cids, 2)
    await monitored(application.database.replicas[0])
    await health_becomes(application, health.HEALTHY)
