"""Outages of the server: the errors that callers get, and the data afterwards."""

import asyncio
import signal

import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import Stub, a_record, a_request_id, failure_of, info_of, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.harness.recorded_writes import MAX_OVERDUE_S
from tests.harness.recovery import FaultReport
from tests.harness.stopwatch import now
from tests.resilience.conftest import DEADLINE, at_baseline, load, patient


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGINT, id="fast", marks=pytest.mark.soak),
        pytest.param(signal.SIGQUIT, id="immediate", marks=pytest.mark.soak),
        pytest.param(signal.SIGKILL, id="kill"),
    ],
)
async def test_a_server_that_stops_under_load_loses_and_duplicates_no_write(
    application: Application,
    cids: Stub,
    database: Database,
    server: PrivateServer,
    report: FaultReport,
    *,
    how: signal.Signals,
) -> None:
    async with load(cids) as writes:
        await asyncio.to_thread(server.stop, how)
        await until(lambda: not application.database.primary.breaker.closed)
        await asyncio.to_thread(server.start)
        report.recovered(await writes.progress(50), writes.errors)
    writes.check(database)
    await at_baseline(application)


@pytest.mark.soak
async def test_killing_only_the_postmaster_loses_and_duplicates_no_write(
    application: Application, cids: Stub, database: Database, server: PrivateServer, report: FaultReport
) -> None:
    """Its backends run until they notice this, and may commit meanwhile."""
    async with load(cids) as writes:
        await asyncio.to_thread(server.kill_postmaster)
        await until(lambda: not application.database.primary.breaker.closed)
        await asyncio.to_thread(server.start)
        report.recovered(await writes.progress(50), writes.errors)
    writes.check(database)
    await at_baseline(application)


async def test_the_service_recovers_soon_from_a_killed_backend(
    application: Application, cids: Stub, database: Database, server: PrivateServer, report: FaultReport
) -> None:
    async with load(cids) as writes:
        await asyncio.to_thread(server.kill_backend, database.name)
        report.recovered(await writes.progress(50), writes.errors)
    writes.check(database)
    await at_baseline(application)


@pytest.mark.soak
@patient
async def test_callers_do_not_notice_connections_that_the_server_terminates(
    application: Application, cids: Stub, database: Database, server: PrivateServer, report: FaultReport
) -> None:
    async with load(cids, deadline=30) as writes:
        for _ in range(2):
            await asyncio.to_thread(
                server.execute,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()",
                database.name,
            )
            # Enough calls to refill the retry budget.
            report.recovered(await writes.progress(250), writes.errors)
    assert application.database.primary.breaker.trips == 0
    writes.check(database, allowed=())


@patient
async def test_the_next_calls_do_not_notice_a_restart_of_an_idle_server(
    application: Application, cids: Stub, server: PrivateServer
) -> None:
    await asyncio.gather(*(cids.CountCids(pb.CountCidsRequest()) for _ in range(20)))
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    await at_baseline(application)
    retries = application.database.retrier.counts  # a job may have been retried
    before = sum(retries.values())
    await asyncio.gather(*(cids.CountCids(pb.CountCidsRequest()) for _ in range(20)))
    assert sum(retries.values()) == before


async def test_a_frozen_server_does_not_block_callers(
    application: Application, cids: Stub, database: Database, server: PrivateServer, report: FaultReport
) -> None:
    breaker = application.database.primary.breaker
    async with load(cids) as writes:
        with server.frozen():
            await until(lambda: not breaker.closed)
            await asyncio.sleep(DEADLINE)  # every call in progress is past its deadline
            for _ in range(5):
                started = now()
                error = await failure_of(cids.CreateCid(pb.CreateCidRequest(record=a_record(10**9))))
                assert info_of(error).reason in {"CIRCUIT_OPEN", "DATABASE_UNAVAILABLE"}
                assert now() - started < DEADLINE
        report.recovered(await writes.progress(50), writes.errors)
    writes.check(database)
    await at_baseline(application)


async def test_calls_end_at_their_deadline_while_the_server_is_frozen(
    application: Application, cids: Stub, server: PrivateServer
) -> None:
    await cids.CountCids(pb.CountCidsRequest())
    with server.frozen():
        for call in (
            cids.CountCids(pb.CountCidsRequest(), timeout=0.3),
            cids.GetCid(pb.GetCidRequest(cid="0" * 64), timeout=0.3),
            cids.CreateCid(pb.CreateCidRequest(record=a_record(1), request_id=a_request_id()), timeout=0.3),
            cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=[a_record(2)]), timeout=0.3),
        ):
            started = now()
            await failure_of(call)
            assert now() - started < 0.3 + MAX_OVERDUE_S
    await at_baseline(application)
    await cids.CountCids(pb.CountCidsRequest())


async def test_a_black_hole_opens_the_breaker_until_the_network_recovers(
    application: Application, cids: Stub, database: Database, proxy: FaultProxy, report: FaultReport
) -> None:
    async with load(cids) as writes:
        proxy.hang()
        await until(lambda: not application.database.primary.breaker.closed)
        times = []
        for _ in range(20):
            started = now()
            error = await failure_of(cids.GetCid(pb.GetCidRequest(cid="0" * 64)))
            if info_of(error).reason == "CIRCUIT_OPEN":
                times.append(now() - started)
        assert len(times) >= 15
        assert sorted(times)[len(times) // 2] < 0.5, "calls do not wait for DB_ACQUIRE_TIMEOUT, which is 1 s"
        report.figure("milliseconds_to_circuit_open", round(sorted(times)[len(times) // 2] * 1000, 1))
        proxy.flow()
        report.recovered(await writes.progress(50), writes.errors)
    writes.check(database)
    await at_baseline(application)


@pytest.mark.settings(db_breaker_failures=2)
async def test_the_monitor_closes_the_breaker_without_a_call(
    application: Application, cids: Stub, proxy: FaultProxy, report: FaultReport
) -> None:
    breaker = application.database.primary.breaker
    await cids.CountCids(pb.CountCidsRequest())
    await proxy.refuse()
    await until(lambda: not breaker.closed)
    await proxy.accept()
    began = now()
    await until(lambda: breaker.closed)
    await cids.CountCids(pb.CountCidsRequest())
    report.recovered(now() - began)
    await at_baseline(application)
    assert breaker.trips == 1
