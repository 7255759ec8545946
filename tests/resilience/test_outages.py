"""The server goes, and comes back: what callers see meanwhile, and what is in the tables afterwards."""

import asyncio
import signal
import time

import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import Stub, a_record, a_request_id, failure_of, info_of, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.history import Load
from tests.harness.private_servers import PrivateServer
from tests.resilience.conftest import at_baseline

# The specification allows a minute; the issue asks for this.
RECOVERY = 5.0
DEADLINE = 2.0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL], ids=["fast", "immediate", "kill"])
async def test_a_server_that_ends_under_load_loses_and_doubles_nothing(
    application: Application, cids: Stub, database: Database, server: PrivateServer, how: signal.Signals
) -> None:
    async with Load(cids, timeout=DEADLINE) as load:
        await asyncio.to_thread(server.stop, how)
        await asyncio.sleep(1.5)
        await asyncio.to_thread(server.start)
        assert await load.progress(50) < RECOVERY
    load.history.check(database, slowest=DEADLINE + 1)
    await at_baseline(application)


async def test_a_backend_that_is_killed_costs_nobody_an_error_for_long(
    application: Application, cids: Stub, database: Database, server: PrivateServer
) -> None:
    async with Load(cids, timeout=DEADLINE) as load:
        await asyncio.to_thread(server.kill_a_backend, database.name)
        assert await load.progress(50) < RECOVERY
    load.history.check(database, slowest=DEADLINE + 1)
    await at_baseline(application)


async def test_connections_that_the_server_ends_are_replaced_unseen(
    application: Application, cids: Stub, database: Database, server: PrivateServer
) -> None:
    async with Load(cids, timeout=DEADLINE) as load:
        for _ in range(5):
            await asyncio.to_thread(
                server.execute,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()",
                database.name,
            )
            await load.progress(50)
    assert not load.history.reasons
    assert application.database.primary.breaker.trips == 0
    load.history.check(database, slowest=DEADLINE + 1)


async def test_a_restart_while_nobody_calls_is_not_noticed_by_who_calls_next(
    application: Application, cids: Stub, server: PrivateServer
) -> None:
    await asyncio.gather(*(cids.CountCids(pb.CountCidsRequest()) for _ in range(20)))
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    await asyncio.gather(*(cids.CountCids(pb.CountCidsRequest()) for _ in range(20)))
    assert sum(application.database.retrier.counts.values()) == 0


async def test_a_server_that_is_frozen_holds_up_nobody(
    application: Application, cids: Stub, database: Database, server: PrivateServer
) -> None:
    async with Load(cids, timeout=DEADLINE) as load:
        with server.frozen():
            await asyncio.sleep(4)  # longer than a ping, its cancelling and a deadline
            assert not application.database.primary.breaker.closed
            for _ in range(5):
                started = time.monotonic()
                error = await failure_of(cids.CreateCid(pb.CreateCidRequest(record=a_record(10**9))))
                assert info_of(error).reason in {"CIRCUIT_OPEN", "DATABASE_UNAVAILABLE"}
                assert time.monotonic() - started < DEADLINE
        assert await load.progress(50) < RECOVERY
    load.history.check(database, slowest=DEADLINE + 1)
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
            started = time.monotonic()
            await failure_of(call)
            assert time.monotonic() - started < 0.8
    await at_baseline(application)
    await cids.CountCids(pb.CountCidsRequest())


async def test_a_black_hole_opens_the_breaker_and_the_network_closes_it_again(
    application: Application, cids: Stub, database: Database, proxy: FaultProxy
) -> None:
    async with Load(cids, timeout=DEADLINE) as load:
        proxy.hang()
        await until(lambda: not application.database.primary.breaker.closed, seconds=10)
        times = []
        for _ in range(20):
            started = time.monotonic()
            error = await failure_of(cids.GetCid(pb.GetCidRequest(cid="0" * 64)))
            if info_of(error).reason == "CIRCUIT_OPEN":
                times.append(time.monotonic() - started)
        assert len(times) >= 15
        assert sorted(times)[len(times) // 2] < 0.005
        proxy.flow()
        assert await load.progress(50) < RECOVERY
    load.history.check(database, slowest=DEADLINE + 1)
    await at_baseline(application)


async def test_a_server_that_refuses_is_found_again_without_a_caller(
    application: Application, cids: Stub, proxy: FaultProxy
) -> None:
    breaker = application.database.primary.breaker
    await cids.CountCids(pb.CountCidsRequest())
    await proxy.refuse()
    await until(lambda: not breaker.closed, seconds=20)
    # A storm it is not: while the breaker is open, one connection is tried for each trial.
    await proxy.accept()
    began = time.monotonic()
    await until(lambda: breaker.closed, seconds=RECOVERY)
    await at_baseline(application)
    assert time.monotonic() - began < RECOVERY
    await cids.CountCids(pb.CountCidsRequest())
    assert breaker.trips == 1
