"""Overload, slow statements and cancelled calls: afterwards the pool is as before."""

import asyncio
import time
from contextlib import suppress

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.pool import NestedCheckout
from vsyncd.postgres.queries import Query, Session
from vsyncd.resilience.circuit_breaker import HALF_OPEN

from tests.harness.cids import (
    Stub,
    a_record,
    a_request_id,
    create,
    failure_of,
    info_of,
    rows,
    status_of,
    unpacked,
    until,
    waiting_for_locks,
)
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.footprint import Footprint
from tests.harness.private_servers import PrivateServer
from tests.harness.recorded_writes import RecordedWrites
from tests.harness.recovery import FaultReport
from tests.harness.stopwatch import now
from tests.resilience.conftest import at_baseline, load, patient

SLEEP = Query("sleep", b"SELECT pg_sleep(%(seconds)s)")


@patient
@pytest.mark.parametrize("calls", [1000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_cancelled_calls_leak_no_resources(
    application: Application, cids: Stub, database: Database, proxy: FaultProxy, report: FaultReport, *, calls: int
) -> None:
    await create(cids, range(50))
    primary = application.database.primary
    proxy.delay = 0.02
    started = 0

    async def call(number: int) -> None:
        kinds = (
            lambda: cids.CreateCid(pb.CreateCidRequest(record=a_record(100_000 + number), request_id=a_request_id())),
            lambda: cids.GetCid(pb.GetCidRequest(cid=a_record(number % 50).cid)),
            lambda: cids.CountCids(pb.CountCidsRequest()),
            lambda: cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=[a_record(200_000 + number)])),
        )
        nonlocal started
        running = kinds[number % 4]()
        for _ in range(200):  # until the database is in use, also on a busy machine
            if primary.active_tasks:
                break
            await asyncio.sleep(0.001)
        await asyncio.sleep(number % 37 / 1000)
        started += primary.active_tasks > 0
        running.cancel()
        await running.code()

    async def cancel(numbers: range) -> None:
        for begin in numbers[::50]:
            if begin % 200 == 0:
                await primary.pool.drain()  # so that some calls are cancelled while they connect
            await asyncio.gather(*(call(begin + number) for number in range(50)))

    await cancel(range(calls // 2))
    half = await settled(application, proxy)
    await cancel(range(calls // 2, calls))
    grown = (await settled(application, proxy)).grown_since(half)
    assert started > calls // 4
    assert primary.breaker.trips == 0
    stats = primary.pool.get_stats()
    assert stats["pool_size"] <= stats["pool_max"]
    idle = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
    await until(lambda: rows(database, idle)[0]["n"] == 1)  # this query's own connection
    report.figure(f"grown_by_{calls // 2}_cancelled_calls", grown)
    connections = stats["pool_max"] + 2
    assert grown["tasks"] <= 3 * connections  # the proxy has three per connection
    assert grown["descriptors"] <= 2 * connections
    assert grown["megabytes"] < 20
    await asyncio.gather(*(cids.CountCids(pb.CountCidsRequest()) for _ in range(50)))


async def settled(application: Application, proxy: FaultProxy) -> Footprint:
    """Returns the resources in use while no call is in progress."""
    delay, proxy.delay = proxy.delay, 0.0
    await at_baseline(application)
    footprint = Footprint.now()
    proxy.delay = delay
    return footprint


async def test_an_exhausted_pool_is_reported_in_time_and_recovers(
    application: Application, cids: Stub, database: Database, report: FaultReport
) -> None:
    primary = application.database.primary
    async with load(cids, callers=4) as writes:
        await exhaust(application, cids, report)
        await writes.progress(20)
    writes.check(database)
    assert primary.breaker.closed
    await at_baseline(application)


async def exhaust(application: Application, cids: Stub, report: FaultReport) -> None:
    """Holds every connection until a waiting call has failed."""
    leave, held = asyncio.Event(), asyncio.Semaphore(0)

    async def hold(_: Session) -> None:
        held.release()
        await leave.wait()

    holders = [asyncio.create_task(application.database.read(hold)) for _ in range(8)]
    for _ in holders:
        await held.acquire()
    started = time.monotonic()
    error = await failure_of(cids.CountCids(pb.CountCidsRequest()))
    waited = time.monotonic() - started
    report.figure("seconds_to_pool_exhausted", round(waited, 2))
    assert info_of(error).reason == "POOL_EXHAUSTED"
    assert unpacked(status_of(error), error_details_pb2.RetryInfo()).retry_delay.ToMilliseconds() > 0
    assert waited > 0.5  # DB_ACQUIRE_TIMEOUT is 1
    assert not any(holder.done() for holder in holders)
    leave.set()
    await asyncio.gather(*holders)


@pytest.mark.settings(db_min_connections=8, db_acquire_timeout=30, db_ping_timeout=10)
async def test_the_queue_for_connections_is_bounded(application: Application) -> None:
    database = application.database
    await until(lambda: database.primary.pool.get_stats()["pool_available"] == 8)
    calls = [
        asyncio.create_task(database.read(lambda session: session.all(SLEEP, {"seconds": 0.1}))) for _ in range(100)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if getattr(answer, "reason", "") == "POOL_EXHAUSTED"]
    assert len(refused) >= 100 - 8 - 80  # more if a job of the service was waiting, too
    assert all(isinstance(answer, list) or answer in refused for answer in answers)
    await at_baseline(application)


@patient
async def test_a_pool_that_is_filling_is_not_exhausted(application: Application, cids: Stub, proxy: FaultProxy) -> None:
    """Connecting is slow and there are more callers than connections: all are served."""
    proxy.delay = 0.03
    await application.database.primary.pool.drain()
    await asyncio.gather(*(cids.CountCids(pb.CountCidsRequest(), timeout=30) for _ in range(8)))


@patient
async def test_a_second_checkout_while_holding_a_connection_raises_an_error(application: Application) -> None:
    database = application.database

    async def outer(_: Session) -> object:
        return await database.read(lambda session: session.all(SLEEP, {"seconds": 0}), ReadMode.PRIMARY_PREFERRED)

    with pytest.raises(NestedCheckout):
        await database.read(outer)
    await at_baseline(application)


@patient
async def test_slow_statements_are_cancelled_on_the_server_at_their_deadline(
    application: Application, cids: Stub, database: Database, report: FaultReport
) -> None:
    """The statements wait for a lock that is held until they have ended."""
    await create(cids, range(3))
    with psycopg.connect(database.admin) as holder:
        holder.execute("LOCK TABLE vsync.cids IN ACCESS EXCLUSIVE MODE")
        waited = False
        async with asyncio.timeout(60):
            while not waited:  # on a machine that pauses they may end before this looks
                started = now()
                calls = asyncio.gather(*(failure_of(cids.ListCids(pb.ListCidsRequest(), timeout=1)) for _ in range(20)))
                while not calls.done():
                    waited = await asyncio.to_thread(waiting_for_locks, database) > 0 or waited
                report.figure("seconds_past_a_deadline", round(now() - started - 1, 3))
                # Some did not get a connection before their deadline.
                codes = {error.code() for error in await calls}
                assert grpc.StatusCode.DEADLINE_EXCEEDED in codes
                assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
        await until(lambda: waiting_for_locks(database) == 0)
        holder.rollback()
    await at_baseline(application)
    assert application.database.primary.breaker.trips == 0
    assert (await cids.CountCids(pb.CountCidsRequest())).total == 3


@patient
async def test_concurrent_deadlocks_are_retried_or_reported_as_contention(application: Application, cids: Stub) -> None:
    """Transactions that lock the same two rows in opposite orders."""
    await create(cids, [1, 2])
    lock = Query("lock", b'SELECT FROM "vsync".cids WHERE cid = %(cid)s FOR UPDATE')
    cids_of_both = [bytes.fromhex(a_record(number).cid) for number in (1, 2)]
    both_hold, held = asyncio.Barrier(2), 0

    async def both(turn: int) -> str:
        async def work(session: Session) -> str:
            nonlocal held
            first, second = cids_of_both if turn % 2 else reversed(cids_of_both)
            await session.run(lock, {"cid": first})
            held += 1
            if held <= 2:  # each of these holds one row
                await both_hold.wait()
            await session.run(lock, {"cid": second})
            return "done"

        return await application.database.transaction(work)

    answers = await asyncio.gather(*(both(turn) for turn in range(8)), return_exceptions=True)
    assert {getattr(answer, "reason", answer) for answer in answers} <= {"done", "CONTENTION"}
    assert "done" in answers  # the server cancels one transaction of each deadlock
    assert application.database.retrier.counts["40P01"]
    assert application.database.primary.breaker.trips == 0
    await at_baseline(application)


@patient
async def test_concurrent_serialization_failures_are_retried_or_reported_as_contention(
    application: Application, cids: Stub, database: Database
) -> None:
    """Transactions read the same two rows and change one of them. Each success counts once."""
    await create(cids, [1, 2])
    serializable = Query("serializable", b"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    read = Query("read", b'SELECT sum(revision) FROM "vsync".cids')
    both_have_read, reads = asyncio.Barrier(2), 0
    change = Query("change", b'UPDATE "vsync".cids SET revision = revision + 1 WHERE cid = %(cid)s')
    cids_of_both = [bytes.fromhex(a_record(number).cid) for number in (1, 2)]

    async def one(turn: int) -> str:
        async def work(session: Session) -> str:
            nonlocal reads
            await session.run(serializable)
            await session.one(read)
            reads += 1
            if reads <= 2:  # these two conflict
                await both_have_read.wait()
            await session.run(change, {"cid": cids_of_both[turn % 2]})
            return "done"

        return await application.database.transaction(work)

    answers = await asyncio.gather(*(one(turn) for turn in range(16)), return_exceptions=True)
    assert {getattr(answer, "reason", answer) for answer in answers} <= {"done", "CONTENTION"}
    assert application.database.retrier.counts["40001"]
    revisions = rows(database, "SELECT sum(revision) AS n FROM vsync.cids")[0]["n"]
    assert revisions == 2 + answers.count("done") > 2
    assert application.database.primary.breaker.trips == 0
    await at_baseline(application)


@patient
async def test_callers_do_not_notice_deadlocks_with_manual_transactions(
    application: Application, cids: Stub, database: Database
) -> None:
    """A manual transaction locks records in another order than the service."""
    writes = RecordedWrites(cids, deadline=60)
    manual_lock = b"SELECT FROM vsync.cids WHERE cid = %s FOR UPDATE"
    async with asyncio.timeout(90):
        while not application.database.retrier.counts["40P01"]:  # the server cancels either transaction
            both = writes.creation(2)
            await writes.attempt(both)
            low, high = sorted(map(bytes.fromhex, both.cids))
            with psycopg.connect(database.admin) as other:
                other.execute(manual_lock, [high])
                removing = asyncio.create_task(writes.attempt(writes.removal(both.cids)))
                await until(lambda: waiting_for_locks(database) == 1)
                with suppress(psycopg.errors.DeadlockDetected):
                    await asyncio.to_thread(other.execute, manual_lock, [low])
                other.rollback()
                assert await removing is None
    writes.check(database, allowed=())
    assert application.database.primary.breaker.trips == 0
    await at_baseline(application)


@patient
async def test_serialization_failures_are_retried_or_reported_as_contention(
    application: Application, cids: Stub, database: Database, server: PrivateServer
) -> None:
    server.execute(
        """CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
               IF random() < 0.1 THEN
                   RAISE EXCEPTION 'could not serialize' USING ERRCODE = 'serialization_failure';
               END IF;
               RETURN NULL;
           END
           $$;
           CREATE TRIGGER fail AFTER INSERT ON vsync.cids FOR EACH STATEMENT EXECUTE FUNCTION public.fail()""",
        database.name,
    )
    async with load(cids, deadline=30) as writes, asyncio.timeout(60):
        while not application.database.retrier.counts["40001"]:
            await writes.progress(20)
    writes.check(database, allowed={"ABORTED CONTENTION"})
    assert application.database.primary.breaker.trips == 0
    await at_baseline(application)


@pytest.mark.settings(db_breaker_failures=2)
async def test_a_half_open_breaker_admits_one_trial_and_no_calls(
    application: Application, cids: Stub, proxy: FaultProxy
) -> None:
    """The server sees one connection attempt of the monitor per trial, and none for calls."""
    breaker = application.database.primary.breaker
    states: list[str] = []
    await cids.CountCids(pb.CountCidsRequest())
    proxy.hang()
    await until(lambda: not breaker.closed)
    proxy.cut()
    breaker.on_change.append(states.append)
    before = len(proxy.greetings)
    while states.count(HALF_OPEN) < 2 or breaker.state != HALF_OPEN:
        errors = await asyncio.gather(*(failure_of(cids.CountCids(pb.CountCidsRequest())) for _ in range(20)))
        assert {info_of(error).reason for error in errors} == {"CIRCUIT_OPEN"}
        await asyncio.sleep(0.05)
    greetings = proxy.greetings[before:]
    trials = [greeting for greeting in greetings if b"vsyncd monitor" in greeting]
    # Plus attempts that were in progress: one trial, the pool's, and a health check's.
    assert 1 <= len(trials) <= states.count(HALF_OPEN) + 1
    assert len(greetings) - len(trials) <= application.settings.db_max_connections + 1
    proxy.flow()
    await at_baseline(application)
