"""Replicas that are behind: who writes reads what they wrote, and too far behind is not read from."""

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
from tests.resilience.replicas.conftest import arrived, asked, health_of, in_use, total, turned

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
    before = asked(application)[1]
    async with asyncio.timeout(60):
        while asked(application)[1] == before:
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
async def test_a_replica_that_lags_is_taken_out_and_comes_back(
    application: Application, cids: Stub, replica: PrivateServer, proxy: FaultProxy
) -> None:
    replica.execute("SELECT pg_wal_replay_pause()")
    await create(cids, [1])
    await in_use(application, yes=False)
    assert await total(cids) == 1
    # It knows itself that it is behind; by how much is known from what was seen of the primary.
    target = application.database.replicas[0]
    await until(lambda: target.last_status is not None and target.last_status.lag.bytes > 0)
    report = await health_of(application)
    assert report.status == health.DEGRADED
    told = report.dependencies[1]
    assert (told.name, told.status, told.is_critical) == ("postgresql-replica-1", health.DEGRADED, False)
    assert int(told.config.metadata["replication_lag_ms"]) > SHORT * 1000
    assert int(told.config.metadata["replication_lag_bytes"]) > 0
    # It answers, and is not read from: without the primary nothing is served.
    await proxy.refuse()
    report = await turned(application, health.UNHEALTHY)
    assert "reads are served" not in report.message
    assert info_of(await failure_of(cids.CountCids(pb.CountCidsRequest()))).reason in {
        "DATABASE_UNAVAILABLE",
        "CIRCUIT_OPEN",
    }
    await proxy.accept()
    await turned(application, health.DEGRADED)
    replica.execute("SELECT pg_wal_replay_resume()")
    await in_use(application)
    assert await total(cids) == 1
    assert (await health_of(application)).status == health.HEALTHY


async def test_a_replica_that_is_gone_falls_behind_by_what_the_primary_writes(
    application: Application, server: PrivateServer, replica: PrivateServer
) -> None:
    await asyncio.to_thread(replica.stop, signal.SIGKILL)
    await in_use(application, yes=False)
    server.execute("SELECT pg_logical_emit_message(true, '', repeat('x', 1000000))")
    await grown(application, "vsyncd_replica_lag_bytes", 1_000_000)
    await grown(application, "vsyncd_replica_lag_seconds", 0.5)
    metadata = (await health_of(application)).dependencies[1].config.metadata
    assert int(metadata["replication_lag_bytes"]) >= 1_000_000
    assert int(metadata["replication_lag_ms"]) >= 500


async def grown(application: Application, lag: str, least: float) -> None:
    """Wait until the metrics tell of so much of a lag."""
    async with asyncio.timeout(60):
        while not (await scrape(application.http_port)).of(lag, replica="replica-1") >= least:  # noqa: ASYNC110  no event
            await asyncio.sleep(0.05)


async def test_the_lag_of_a_replica_that_was_never_seen_is_not_known(
    database: Database, proxy: FaultProxy, replica_proxy: FaultProxy
) -> None:
    await replica_proxy.refuse()
    url, replicas = proxy_url(database, proxy.port), f"127.0.0.1:{replica_proxy.port}"
    async with Application(settings_of(url, db_replica_hosts=replicas)) as application:
        await until(lambda: application.database.primary.last_status is not None)
        samples = await scrape(application.http_port)
        assert math.isnan(samples.of("vsyncd_replica_lag_bytes", replica="replica-1"))
        assert math.isnan(samples.of("vsyncd_replica_lag_seconds", replica="replica-1"))
        metadata = (await health_of(application)).dependencies[1].config.metadata
        assert not {"replication_lag_ms", "replication_lag_bytes"} & metadata.keys()


@pytest.mark.soak
async def test_with_its_primary_gone_a_replica_that_is_behind_falls_no_further_behind(
    application: Application, cids: Stub, proxy: FaultProxy, replica: PrivateServer
) -> None:
    target, primary = application.database.replicas[0], application.database.primary
    begun = time.monotonic()
    await create(cids, [1])
    await arrived(cids, 1)
    replica.execute("SELECT pg_wal_replay_pause()")
    await create(cids, [2])
    await until(lambda: target.last_status is not None and target.last_status.lag.bytes > 0)
    await proxy.refuse()
    await until(lambda: not primary.breaker.closed)
    at_most = time.monotonic() - begun + 0.5  # what it was behind by then; the clocks' difference
    # Until it would be behind by more, if that went on.
    await until(
        lambda: target.last_status is not None and target.last_status.observed_at > begun + 2 * at_most, seconds=60
    )
    assert target.last_status is not None
    assert 0 < target.last_status.lag.seconds <= at_most
    assert await total(cids) == 1
    assert (await health_of(application)).status == health.DEGRADED
