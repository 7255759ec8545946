"""Reads at replicas: where they go, what they see, and what happens when either side goes away."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import grpc
import psycopg
import pytest
import vsync
from vsync.health.v1 import health_pb2 as health
from vsync.health.v1 import health_pb2_grpc as health_grpc
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import reconciliation_pb2 as sets
from vsync.v1 import reconciliation_pb2_grpc
from vsyncd.app import Application
from vsyncd.postgres.consistency import TOKEN, Reads
from vsyncd.postgres.queries import Query

from tests.harness.cids import ISPB, Stub, a_record, create, failure_of, info_of, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.harness.reconciliation import Reconciliation, diff, diff_requests
from tests.harness.recovery import FaultReport
from tests.harness.serving import fields_of
from tests.resilience.conftest import (
    PATIENT,
    at_baseline,
    caught_up,
    first_good_answer,
    load,
    proxy_url,
    settings_of,
)

STRONG = (("x-consistency", "strong"),)
EVENTUAL = (("x-consistency", "eventual"),)
# Seconds: long, unless a test waits for it.
MAX_LAG, SHORT = 30, 1.5


@pytest.fixture(scope="module")
def shared_replica(shared_server: PrivateServer) -> Iterator[PrivateServer]:
    """A replica of the worker's server."""
    if not shared_server.running:
        shared_server.start()
    replica = shared_server.replicate("replica")
    replica.start()
    yield replica
    replica.stop()


@pytest.fixture
def replica(database: Database, server: PrivateServer, shared_replica: PrivateServer) -> Iterator[PrivateServer]:
    """The replica, with the test's database in it."""
    assert database.version == 18
    caught_up(server, shared_replica)
    yield shared_replica
    if not shared_replica.running:
        shared_replica.start()
    shared_replica.execute("SELECT pg_wal_replay_resume()")


@pytest.fixture
async def replica_proxy(replica: PrivateServer) -> AsyncIterator[FaultProxy]:
    """What stands between vsyncd and the replica."""
    async with FaultProxy(replica.socket) as proxy:
        yield proxy


@pytest.fixture
async def application(
    database: Database, proxy: FaultProxy, replica_proxy: FaultProxy, overrides: dict[str, Any]
) -> AsyncIterator[Application]:
    """vsyncd over both proxies, with the replica in use."""
    given: dict[str, Any] = {
        "db_replica_hosts": f"127.0.0.1:{replica_proxy.port}",
        "db_replica_max_lag": MAX_LAG,
        "health_cache_seconds": 0,
        **PATIENT,
    }
    async with Application(settings_of(proxy_url(database, proxy.port), **given | overrides)) as application:
        await in_use(application)
        yield application


async def in_use(application: Application, *, yes: bool = True) -> None:
    """Wait until the replica is read from, or no more."""
    router = application.database.router
    await until(lambda: router.serves(router.replicas[0]) is yes)


def asked(application: Application) -> tuple[int, int]:
    """How often the pools of the primary and the replica were asked for a connection."""
    primary, replica = (target.pool.get_stats().get("requests_num", 0) for target in application.database.targets)
    return primary, replica


async def total(cids: Stub, **options: Any) -> int:
    """How many records are there, as CountCids says it."""
    return int((await cids.CountCids(pb.CountCidsRequest(), **options)).total)


async def arrived(cids: Stub, count: int) -> None:
    """Wait until the replica has so many records."""
    async with asyncio.timeout(20):
        while await total(cids) != count:  # noqa: ASYNC110  a replica announces nothing
            await asyncio.sleep(0.02)


async def test_each_read_goes_where_its_consistency_says(application: Application, cids: Stub) -> None:
    get = partial(cids.GetCid, pb.GetCidRequest(cid=a_record(1).cid))
    listing = partial(cids.ListCids, pb.ListCidsRequest())
    count = partial(cids.CountCids, pb.CountCidsRequest())
    await create(cids, [1])
    await until(lambda: bool(application.database.replicas[0].seen))
    cases: list[tuple[Callable[..., Any], Any, int]] = [
        (get, None, 0),
        (get, STRONG, 0),
        (listing, STRONG, 0),
        (count, STRONG, 0),
        (listing, None, 1),
        (count, None, 1),
        (listing, EVENTUAL, 1),
    ]
    for call, metadata, expected in cases:
        before = asked(application)[1]
        await call(metadata=metadata)
        assert asked(application)[1] - before == expected, (call, metadata)
    await arrived(cids, 1)
    before = asked(application)[1]
    await get(metadata=EVENTUAL)
    assert asked(application)[1] - before == 1


async def test_a_wrong_word_is_a_bad_field(cids: Stub) -> None:
    for pair in (("x-consistency", "weak"), ("x-consistency-token", "?"), ("x-consistency-token", "AA")):
        error = await failure_of(cids.CountCids(pb.CountCidsRequest(), metadata=(pair,)))
        assert (error.code(), fields_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, [pair[0]])


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
    token = dict(await call.trailing_metadata())[TOKEN]
    metadata = ((TOKEN, token),)
    assert await total(cids) == 0  # the replica answers
    assert await total(cids, metadata=metadata) == 1
    replica.execute("SELECT pg_wal_replay_resume()")
    before = asked(application)[1]
    async with asyncio.timeout(20):
        while asked(application)[1] == before:
            assert await total(cids, metadata=metadata) == 1
            await asyncio.sleep(0.05)


async def test_scans_and_differences_are_read_from_the_replica(
    application: Application, cids: Stub, replica: PrivateServer
) -> None:
    await create(cids, [1])
    await arrived(cids, 1)
    replica.execute("SELECT pg_wal_replay_pause()")
    await create(cids, [2])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        stub: Reconciliation = reconciliation_pb2_grpc.ReconciliationServiceStub(channel)
        request = sets.RecomputeVsyncRequest(ispb=ISPB, key_type=pb.KEY_TYPE_CPF)
        scan = await stub.RecomputeVsync(request)
        assert (scan.vsync.count, scan.agrees) == (1, True)
        scan = await stub.RecomputeVsync(request, metadata=STRONG)
        assert (scan.vsync.count, scan.agrees) == (2, True)
        _, summary = await diff(stub, diff_requests([bytes.fromhex(a_record(2).cid)]))
        assert (summary.our_vsync.count, summary.missing_here, summary.kept_agrees) == (1, 1, True)
        vsync = await stub.GetVsync(sets.GetVsyncRequest(ispb=ISPB, key_type=pb.KEY_TYPE_CPF))
        assert vsync.vsync.count == 2
    replica.execute("SELECT pg_wal_replay_resume()")


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


async def test_a_scan_that_a_replica_cancels_is_done_by_the_primary(
    application: Application, cids: Stub, database: Database, server: PrivateServer, replica: PrivateServer
) -> None:
    await create(cids, [1])
    await arrived(cids, 1)

    async def difference(stub: Reconciliation) -> tuple[int, bool]:
        _, summary = await diff(stub, diff_requests([bytes.fromhex(a_record(1).cid)]))
        return summary.our_vsync.count, summary.kept_agrees

    async def recomputed(stub: Reconciliation) -> tuple[int, bool]:
        answer = await stub.RecomputeVsync(sets.RecomputeVsyncRequest(ispb=ISPB, key_type=pb.KEY_TYPE_CPF))
        return answer.vsync.count, answer.agrees

    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        stub: Reconciliation = reconciliation_pb2_grpc.ReconciliationServiceStub(channel)
        for purpose, scan in (("recompute", recomputed), ("diff", difference)):
            with cancelled_at_the_replica(purpose, database, server, replica) as cancel:
                task = asyncio.create_task(scan(stub))
                await asyncio.to_thread(cancel)
            assert await task == (1, True)


@contextlib.contextmanager
def cancelled_at_the_replica(
    purpose: str, database: Database, server: PrivateServer, replica: PrivateServer
) -> Iterator[Callable[[], None]]:
    """Makes scans of CIDs wait, and cancels one at the replica; it waits on the primary then, until this is left."""
    locked = "SELECT pid FROM pg_locks WHERE relation = 'vsync.cids'::regclass AND mode = 'AccessExclusiveLock'"
    waiting = (
        "SELECT pid FROM pg_stat_activity"  # noqa: S608  ours
        f" WHERE application_name = 'vsyncd {purpose}' AND wait_event_type = 'Lock'"
    )

    def wait(at: PrivateServer, query: str) -> None:
        deadline = time.monotonic() + 60
        while not at.execute(query, database.name):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def cancel() -> None:
        # The replica replays this lock, which the scan waits for there, and keeps one of its own...
        wait(replica, waiting)
        # ... that the replay has to wait for: it cancels the scan instead.
        server.execute("BEGIN; LOCK TABLE vsync.cid_totals; COMMIT", database.name)
        wait(server, waiting)

    with psycopg.connect(database.admin) as someone:
        someone.execute("LOCK TABLE vsync.cids")
        server.execute("SELECT pg_logical_emit_message(true, '', '')")  # a commit: the log is sent up to here
        wait(replica, locked)
        yield cancel


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
    await until(lambda: target.seen is not None and target.seen.lag.bytes > 0)
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


async def health_of(application: Application) -> health.HealthResponse:
    """What GetHealth says."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        stub = health_grpc.HealthStub(channel)
        response: health.HealthResponse = await stub.GetHealth(health.HealthRequest(include_details=True))
        return response


async def turned(application: Application, status: int) -> health.HealthResponse:
    """What GetHealth says when it says this."""
    async with asyncio.timeout(20):
        while (report := await health_of(application)).status != status:  # noqa: ASYNC110  no event
            await asyncio.sleep(0.05)
    return report


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
    await until(lambda: target.seen is not None and target.seen.lag.bytes > 0)
    await proxy.refuse()
    await until(lambda: not primary.breaker.closed)
    at_most = time.monotonic() - begun + 0.5  # what it was behind by then; the clocks' difference
    # Until it would be behind by more, if that went on.
    await until(lambda: target.seen is not None and target.seen.at > begun + 2 * at_most, seconds=60)
    assert target.seen is not None
    assert 0 < target.seen.lag.seconds <= at_most
    assert await total(cids) == 1
    assert (await health_of(application)).status == health.DEGRADED


async def test_a_replica_that_dies_is_noticed_by_no_reader(
    application: Application, cids: Stub, database: Database, server: PrivateServer, replica: PrivateServer
) -> None:
    # It need not replay what all the tests before this one have written.
    await asyncio.to_thread(server.execute, "CHECKPOINT")
    await asyncio.to_thread(caught_up, server, replica)
    await asyncio.to_thread(replica.execute, "CHECKPOINT")
    stop = False

    async def read() -> int:
        reads = 0
        while not stop:
            await cids.ListCids(pb.ListCidsRequest(), timeout=30)
            reads += 1
        return reads

    readers = [asyncio.create_task(read()) for _ in range(8)]
    async with load(cids, callers=4, deadline=30) as writes:
        await asyncio.to_thread(replica.stop, signal.SIGKILL)
        await in_use(application, yes=False)
        await asyncio.to_thread(replica.start)
        await in_use(application)
    stop = True
    assert all(await asyncio.gather(*readers))
    writes.check(database, allowed=())


async def test_a_read_that_a_replica_cancels_is_answered_by_the_primary(
    application: Application, cids: Stub, database: Database, server: PrivateServer, replica: PrivateServer
) -> None:
    await create(cids, [1])
    await arrived(cids, 1)
    until_cancelled = b"SELECT pg_sleep(CASE WHEN pg_is_in_recovery() THEN 60 ELSE 0 END), pg_is_in_recovery()"
    slow = Query("slow", until_cancelled + b" FROM vsync.cids LIMIT 1")
    before = asked(application)
    reading = asyncio.create_task(application.database.read(lambda session: session.one(slow), Reads.MANY))
    sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    await until(lambda: bool(replica.execute(sleeping, database.name)))
    await asyncio.to_thread(server.execute, "BEGIN; LOCK TABLE vsync.cids; COMMIT", database.name)
    row = await reading
    assert row is not None
    assert row[1] is False  # the primary's answer
    after = asked(application)
    assert (after[0] > before[0], after[1] - before[1]) == (True, 1)


async def test_without_its_primary_the_service_reads_on_and_says_so_to_writers(
    application: Application, cids: Stub, proxy: FaultProxy, report: FaultReport
) -> None:
    await create(cids, [1])
    await arrived(cids, 1)
    await proxy.refuse()
    for _ in range(2):  # before the breaker opens, and after
        assert (await cids.GetCid(pb.GetCidRequest(cid=a_record(1).cid), timeout=20)).record.cid == a_record(1).cid
        assert await total(cids) == 1
        for call in (
            cids.CreateCid(pb.CreateCidRequest(record=a_record(2))),
            cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=[a_record(2)])),
        ):
            assert info_of(await failure_of(call)).reason == "READ_ONLY_MODE"
        error = await failure_of(cids.GetCid(pb.GetCidRequest(cid=a_record(1).cid), metadata=STRONG))
        assert info_of(error).reason in {"DATABASE_UNAVAILABLE", "CIRCUIT_OPEN"}
        await until(lambda: not application.database.primary.breaker.closed)
    seen = await health_of(application)
    assert (seen.status, seen.dependencies[0].status) == (health.DEGRADED, health.UNHEALTHY)
    assert seen.dependencies[0].config.metadata["circuit_breaker"] in {"open", "half-open"}
    await proxy.accept()
    report.recovered(await first_good_answer(lambda: create(cids, [2])))
    await at_baseline(application)
