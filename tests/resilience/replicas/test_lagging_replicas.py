"""Lagging replicas: clients read their own writes, and a replica with too much lag receives no reads."""

import asyncio
import math
import signal
import time
from typing import Any

import pytest
import vsync
from vsync.health.v1 import health_pb2 as health
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import reconciliation_pb2 as sets
from vsyncd.app import Application
from vsyncd.core.context import CONSISTENCY_TOKEN_HEADER

from tests.harness.cids import ISPB, Stub, a_record, create, failure_of, info_of, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.http import scrape
from tests.harness.private_servers import PrivateServer
from tests.resilience.conftest import proxy_url, settings_of
from tests.resilience.replicas.conftest import (
    health_becomes,
    health_of,
    pool_requests,
    replica_in_use,
    replicated,
    total,
)

# Seconds: a lag that a test waits for.
SHORT = 1.5


@pytest.mark.parametrize("together", [True, False])
async def test_a_token_gives_a_client_its_own_writes(
    application: Application, cids: Stub, replica: PrivateServer, together: bool
) -> None:
    replica.execute("SELECT pg_wal_replay_pause()")
    call: Any
    if together:
        call = cids.CreateCid(pb.CreateCidRequest(record=a_record(1)))
    else:
        call = cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=[a_record(1)]))
    await call
    token = dict(await call.trailing_metadata())[CONSISTENCY_TOKEN_HEADER]
    metadata = ((CONSISTENCY_TOKEN_HEADER, token),)
    assert await total(cids) == 0  # the replica answers
    assert await total(cids, metadata=metadata) == 1
    replica.execute("SELECT pg_wal_replay_resume()")
    before = pool_requests(application)[1]
    async with asyncio.timeout(60):
        while pool_requests(application)[1] == before:
            assert await total(cids, metadata=metadata) == 1
            await asyncio.sleep(0.05)


async def test_a_copy_of_the_set_that_follows_the_events_is_whole_also_from_a_replica_that_lags(
    application: Application, cids: Stub, replica: PrivateServer
) -> None:
    """The first message's token keeps the export from coming before the events."""
    replica.execute("SELECT pg_wal_replay_pause()")
    await create(cids, [1])
    async with vsync.connect(f"127.0.0.1:{application.port}", read_own_writes=False) as client:
        request = pb.ExportCidsRequest(cids_only=True)
        watch = client.reconciliation.WatchCidEvents(sets.WatchCidEventsRequest(ispb=ISPB))
        first = await anext(aiter(watch))
        old = [answer.cids async for answer in client.export(request)]
        assert b"".join(old) == b"", "the replica answers"
        copy = [answer.cids async for answer in client.export(request, consistency_token=first.consistency_token)]
        assert b"".join(copy) == bytes.fromhex(a_record(1).cid)
    replica.execute("SELECT pg_wal_replay_resume()")


async def test_our_client_reads_its_own_writes_unless_it_does_not_want_to(
    application: Application, replica: PrivateServer
) -> None:
    replica.execute("SELECT pg_wal_replay_pause()")
    target = f"127.0.0.1:{application.port}"
    async with vsync.connect(target) as client, vsync.connect(target, read_own_writes=False) as careless:
        for number, each in enumerate((client, careless)):
            await each.cids.CreateCid(pb.CreateCidRequest(record=a_record(number)))
        assert (await careless.cids.CountCids(pb.CountCidsRequest())).total == 0
        assert (await client.cids.CountCids(pb.CountCidsRequest())).total == 2


@pytest.mark.settings(db_replica_max_lag=SHORT)
async def test_a_replica_with_too_much_lag_receives_no_reads_until_it_has_caught_up(
    application: Application, cids: Stub, replica: PrivateServer, proxy: FaultProxy
) -> None:
    replica.execute("SELECT pg_wal_replay_pause()")
    await create(cids, [1])
    await replica_in_use(application, in_use=False)
    assert await total(cids) == 1
    # The replica reports that it lags. By how much is known from the primary's positions.
    server = application.database.replicas[0]
    await until(lambda: server.last_status is not None and server.last_status.lag.bytes > 0)
    report = await health_of(application)
    assert report.status == health.DEGRADED
    replica_health = report.dependencies[1]
    assert (replica_health.name, replica_health.status, replica_health.is_critical) == (
        "postgresql-replica-1",
        health.DEGRADED,
        False,
    )
    assert int(replica_health.config.metadata["replication_lag_ms"]) > SHORT * 1000
    assert int(replica_health.config.metadata["replication_lag_bytes"]) > 0
    # The replica answers, but receives no reads: without the primary no call is served.
    await proxy.refuse()
    report = await health_becomes(application, health.UNHEALTHY)
    assert "reads are served" not in report.message
    assert info_of(await failure_of(cids.CountCids(pb.CountCidsRequest()))).reason in {
        "DATABASE_UNAVAILABLE",
        "CIRCUIT_OPEN",
    }
    await proxy.accept()
    await health_becomes(application, health.DEGRADED)
    replica.execute("SELECT pg_wal_replay_resume()")
    await replica_in_use(application)
    assert await total(cids) == 1
    assert (await health_of(application)).status == health.HEALTHY


async def test_the_lag_of_a_stopped_replica_grows_by_what_the_primary_writes(
    application: Application, server: PrivateServer, replica: PrivateServer
) -> None:
    await asyncio.to_thread(replica.stop, signal.SIGKILL)
    await replica_in_use(application, in_use=False)
    server.execute("SELECT pg_logical_emit_message(true, '', repeat('x', 1000000))")
    await lag_of_at_least(application, "vsyncd_replica_lag_bytes", 1_000_000)
    await lag_of_at_least(application, "vsyncd_replica_lag_seconds", 0.5)
    metadata = (await health_of(application)).dependencies[1].config.metadata
    assert int(metadata["replication_lag_bytes"]) >= 1_000_000
    assert int(metadata["replication_lag_ms"]) >= 500


async def lag_of_at_least(application: Application, metric: str, minimum: float) -> None:
    """Waits until the metric of the lag reaches the minimum."""
    async with asyncio.timeout(60):
        while not (await scrape(application.http.port)).of(metric, replica="replica-1") >= minimum:  # noqa: ASYNC110  no event
            await asyncio.sleep(0.05)


async def test_the_lag_of_a_replica_that_was_never_reached_is_unknown(
    database: Database, proxy: FaultProxy, replica_proxy: FaultProxy
) -> None:
    await replica_proxy.refuse()
    url, replicas = proxy_url(database, proxy.port), f"127.0.0.1:{replica_proxy.port}"
    async with Application(settings_of(url, db_replica_hosts=replicas)) as application:
        await until(lambda: application.database.primary.last_status is not None)
        samples = await scrape(application.http.port)
        assert math.isnan(samples.of("vsyncd_replica_lag_bytes", replica="replica-1"))
        assert math.isnan(samples.of("vsyncd_replica_lag_seconds", replica="replica-1"))
        metadata = (await health_of(application)).dependencies[1].config.metadata
        assert not {"replication_lag_ms", "replication_lag_bytes"} & metadata.keys()


@pytest.mark.soak
async def test_the_lag_is_frozen_while_the_primary_is_unreachable(
    application: Application, cids: Stub, proxy: FaultProxy, replica: PrivateServer
) -> None:
    server, primary = application.database.replicas[0], application.database.primary
    started = time.monotonic()
    await create(cids, [1])
    await replicated(cids, 1)
    replica.execute("SELECT pg_wal_replay_pause()")
    await create(cids, [2])
    await until(lambda: server.last_status is not None and server.last_status.lag.bytes > 0)
    await proxy.refuse()
    await until(lambda: not primary.breaker.closed)
    max_lag = time.monotonic() - started + 0.5  # with a margin for the difference of the clocks
    # Long enough that a growing lag would exceed this.
    await until(
        lambda: server.last_status is not None and server.last_status.observed_at > started + 2 * max_lag, seconds=60
    )
    assert server.last_status is not None
    assert 0 < server.last_status.lag.seconds <= max_lag
    assert await total(cids) == 1
    assert (await health_of(application)).status == health.DEGRADED
