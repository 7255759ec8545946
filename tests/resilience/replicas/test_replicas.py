"""Reads on replicas: routing, and outages of the primary or the replica."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import psycopg
from vsync.health.v1 import health_pb2 as health
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import cid_pb2_grpc, reconciliation_pb2_grpc
from vsync.v1 import reconciliation_pb2 as sets
from vsyncd.app import Application
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.queries import Query

from tests.harness.cids import ISPB, Stub, a_record, create, failure_of, info_of, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.harness.reconciliation import Reconciliation, diff, diff_requests
from tests.harness.recovery import FaultReport
from tests.harness.serving import fields_of
from tests.resilience.conftest import PATIENT, at_baseline, caught_up, first_good_answer, load, proxy_url, settings_of
from tests.resilience.replicas.conftest import health_of, pool_requests, replica_in_use, replicated, total

STRONG = (("x-consistency", "strong"),)
EVENTUAL = (("x-consistency", "eventual"),)


async def test_each_read_is_routed_by_its_consistency(application: Application, cids: Stub) -> None:
    get = partial(cids.GetCid, pb.GetCidRequest(cid=a_record(1).cid))
    listing = partial(cids.ListCids, pb.ListCidsRequest())
    count = partial(cids.CountCids, pb.CountCidsRequest())
    await create(cids, [1])
    await until(lambda: bool(application.database.replicas[0].last_status))
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
        before = pool_requests(application)[1]
        await call(metadata=metadata)
        assert pool_requests(application)[1] - before == expected, (call, metadata)
    await replicated(cids, 1)
    before = pool_requests(application)[1]
    await get(metadata=EVENTUAL)
    assert pool_requests(application)[1] - before == 1


async def test_a_role_that_can_only_read_suffices_for_replicas(
    database: Database, proxy: FaultProxy, replica_proxy: FaultProxy, server: PrivateServer, replica: PrivateServer
) -> None:
    with psycopg.connect(database.admin, autocommit=True) as admin:
        admin.execute("""CREATE ROLE reader LOGIN PASSWORD 'read' CONNECTION LIMIT 50;
                         GRANT USAGE ON SCHEMA vsync TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA vsync TO reader;
                         GRANT EXECUTE ON FUNCTION vsync.uuid_v7_time, vsync.is_of_this_cluster, vsync.cid_bits
                         TO reader""")
    caught_up(server, replica)
    account = {"db_replica_user": "reader", "db_replica_password": "read"}
    settings = settings_of(
        proxy_url(database, proxy.port), db_replica_hosts=f"127.0.0.1:{replica_proxy.port}", **account, **PATIENT
    )
    try:
        async with Application(settings) as application:
            await replica_in_use(application)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
                cids = cid_pb2_grpc.CidServiceStub(channel)
                await create(cids, [1])
                await replicated(cids, 1)
                assert (await cids.ListCids(pb.ListCidsRequest())).records
                assert [message async for message in cids.ExportCids(pb.ExportCidsRequest())]
            assert (await health_of(application)).status == health.HEALTHY
            assert pool_requests(application)[1] >= 2
    finally:
        with psycopg.connect(database.admin, autocommit=True) as admin:
            admin.execute("DROP OWNED BY reader; DROP ROLE reader")


async def test_an_invalid_consistency_is_a_bad_field(cids: Stub) -> None:
    for pair in (("x-consistency", "weak"), ("x-consistency-token", "?"), ("x-consistency-token", "AA")):
        error = await failure_of(cids.CountCids(pb.CountCidsRequest(), metadata=(pair,)))
        assert (error.code(), fields_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, [pair[0]])


async def test_scans_and_comparisons_read_from_the_replica(
    application: Application, cids: Stub, replica: PrivateServer
) -> None:
    await create(cids, [1])
    await replicated(cids, 1)
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


async def test_a_scan_that_a_replica_cancels_is_repeated_on_the_primary(
    application: Application, cids: Stub, database: Database, server: PrivateServer, replica: PrivateServer
) -> None:
    await create(cids, [1])
    await replicated(cids, 1)

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
    """Blocks scans of CIDs. The yielded function makes the replica cancel one, which then waits on the primary."""
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
        # The replica has replayed the lock on cids, for which the scan waits while it holds a lock of its own ...
        wait(replica, waiting)
        # ... which blocks the replay of this lock, so the replica cancels the scan.
        server.execute("BEGIN; LOCK TABLE vsync.cid_totals; COMMIT", database.name)
        wait(server, waiting)

    with psycopg.connect(database.admin) as holder:
        holder.execute("LOCK TABLE vsync.cids")
        server.execute("SELECT pg_logical_emit_message(true, '', '')")  # a commit: WAL is sent up to here
        wait(replica, locked)
        yield cancel


async def test_no_reader_notices_the_crash_of_a_replica(
    application: Application, cids: Stub, database: Database, server: PrivateServer, replica: PrivateServer
) -> None:
    # So that the replica does not replay the WAL of all tests before this one.
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
        await replica_in_use(application, in_use=False)
        await asyncio.to_thread(replica.start)
        await replica_in_use(application)
    stop = True
    assert all(await asyncio.gather(*readers))
    writes.check(database, allowed=())


async def test_a_read_that_a_replica_cancels_is_repeated_on_the_primary(
    application: Application, cids: Stub, database: Database, server: PrivateServer, replica: PrivateServer
) -> None:
    await create(cids, [1])
    await replicated(cids, 1)
    until_cancelled = b"SELECT pg_sleep(CASE WHEN pg_is_in_recovery() THEN 60 ELSE 0 END), pg_is_in_recovery()"
    slow = Query("slow", until_cancelled + b" FROM vsync.cids LIMIT 1")
    before = pool_requests(application)
    reading = asyncio.create_task(
        application.database.read(lambda session: session.one(slow), ReadMode.REPLICA_PREFERRED)
    )
    sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    await until(lambda: bool(replica.execute(sleeping, database.name)))
    await asyncio.to_thread(server.execute, "BEGIN; LOCK TABLE vsync.cids; COMMIT", database.name)
    row = await reading
    assert row is not None
    assert row[1] is False  # it was answered by the primary
    after = pool_requests(application)
    assert (after[0] > before[0], after[1] - before[1]) == (True, 1)


async def test_without_a_primary_reads_continue_and_writes_are_refused_as_read_only(
    application: Application, cids: Stub, proxy: FaultProxy, report: FaultReport
) -> None:
    await create(cids, [1])
    await replicated(cids, 1)
    await proxy.refuse()
    for _ in range(2):  # before and after the breaker opens
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
