"""The server goes, and comes back: what callers see meanwhile, and what is in the tables afterwards."""

import asyncio
import signal

import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import Stub, a_record, a_request_id, failure_of, info_of, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.harness.recorded_writes import SLACK
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
async def test_a_server_that_ends_under_load_loses_and_doubles_nothing(
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
        report.recovered(await writes.progress(50), writes.told)
    writes.check(database)
    await at_baseline(application)


@pytest.mark.soak
async def test_a_postmaster_that_is_killed_alone_loses_and_doubles_nothing(
    application: Application, cids: Stub, database: Database, server: PrivateServer, report: FaultReport
) -> None:
    """Its backends live until they notice, and may commit meanwhile."""
    async with load(cids) as writes:
        await asyncio.to_thread(server.kill_postmaster)
        await until(lambda: not application.database.primary.breaker.closed)
        await asyncio.to_thread(server.start)
        report.recovered(await writes.progress(50), writes.told)
    writes.check(database)
    await at_baseline(application)


async def test_a_backend_that_is_killed_costs_nobody_an_error_for_long(
    application: Application, cids: Stub, database: Database, server: PrivateServer, report: FaultReport
) -> None:
    async with load(cids) as writes:
        await asyncio.to_thread(server.kill_a_backend, database.name)
        report.recovered(await writes.progress(50), writes.told)
    writes.check(database)
    await at_baseline(application)


@patient
async def test_connections_that_the_server_ends_are_replaced_unseen(
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
            # As many as fill the budget for retries again.
            report.recovered(await writes.progress(250), writes.told)
    assert application.database.primary.breaker.trips == 0
    writes.check(database, allowed=())


@patient
async def test_a_restart_while_nobody_calls_is_not_noticed_by_who_calls_next(
    application: Application, cids: Stub, server: PrivateServer
) -> None:
    await asyncio.gather(*(cids.CountCids(pb.CountCidsRequest()) for _ in range(20)))
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    await at_baseline(application)
    retries = application.database.retrier.counts  # a job may have met the stop
    before = sum(retries.values())
    await asyncio.gather(*(cids.CountCids(pb.CountCidsRequest()) for _ in range(20)))
    assert sum(retries.values()) == before


async def test_a_server_that_is_frozen_holds_up_nobody(
    application: Application, cids: Stub, database: Database, server: PrivateServer, report: FaultReport
) -> None:
    breaker = application.database.primary.breaker
    async with load(cids) as writes:
        with server.frozen():
            await until(lambda: not breaker.closed)
            await asyncio.sleep(DEADLINE)  # every call that was under way is past its deadline
            for _ in range(5):
                started = now()
                error = await failure_of(cids.CreateCid(pb.CreateCidRequest(record=a_record(10**9))))
                assert info_of(error).reason in {"CIRCUIT_OPEN", "DATABASE_UNAVAILABLE"}
                assert now() - started < DEADLINE
        report.recovered(await writes.progress(50), writes.told)
    writes.check(database)
    await at_baseline(application)


async def test_an_answer_comes_at_the_deadline_while_the_server_is_frozen(
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
            assert now() - started < 0.3 + SLACK
    await at_baseline(application)
    await cids.CountCids(pb.CountCidsRequest())


async def test_a_black_hole_opens_the_breaker_and_the_network_closes_it_again(
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
        assert sorted(times)[len(times) // 2] < 0.5, "no call waits for a connection, for which it would have 1 s"
        report.figure("milliseconds_to_circuit_open", round(sorted(times)[len(times) // 2] * 1000, 1))
        proxy.flow()
        report.recovered(await writes.progress(50), writes.told)
    writes.check(database)
    await at_baseline(application)


@pytest.mark.settings(db_breaker_failures=2)
async def test_a_server_that_refuses_is_found_again_without_a_caller(
    application: Application, cids: Stub, proxy: FaultProxy, report: FaultReport
) -> None:
    breaker = application.database.primary.breaker
    await cids.CountCids(pb.CountCidsRequest())
    await proxy.refuse()
    await until(lambda: not breaker.closed)
    # A storm it is not: while the breaker is open, one connection is tried for each trial.
    await proxy.accept()
    began = now()
    await until(lambda: breaker.closed)
    await cids.CountCids(pb.CountCidsRequest())
    report.recovered(now() - began)
    await at_baseline(application)
    assert breaker.trips == 1
