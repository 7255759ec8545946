"""Repeated starts and stops of vsyncd, at any moment: no stop hangs or leaks resources."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator

import grpc
import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import Stub, a_record, a_request_id
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.footprint import Footprint
from tests.harness.recovery import FaultReport
from tests.harness.stopwatch import now
from tests.resilience.conftest import cids_of, proxy_url, settings_of

# Generous, for a busy machine.
STOP_TIMEOUT_S = 20
RUNS = 500


@pytest.fixture
async def busy() -> AsyncIterator[None]:
    """Keeps the event loop busy."""

    async def work() -> None:
        while True:  # noqa: ASYNC110  nothing is awaited
            await asyncio.sleep(0)

    task = asyncio.create_task(work())
    yield
    task.cancel()
    await asyncio.wait({task})


async def call(cids: Stub, number: int) -> None:
    """Calls the service and ignores errors."""
    try:
        await cids.CreateCid(pb.CreateCidRequest(record=a_record(number), request_id=a_request_id()), timeout=5)
        await cids.CountCids(pb.CountCidsRequest(), timeout=5)
    except grpc.aio.AioRpcError:
        return


def leaked_tasks() -> set[str]:
    """Returns the names of tasks that an application should have ended."""
    names = {task.get_name() for task in asyncio.all_tasks()}
    return {name for name in names if name.startswith(("primary", "replica", "health"))}


# Seconds after the start: before a connection attempt, during the startup message, during the setup, and connected.
@pytest.mark.parametrize("moment", [0.0, 0.03, 0.07, 0.2])
async def test_a_stop_does_not_wait_for_connections_to_a_server_that_hangs(
    database: Database, proxy: FaultProxy, moment: float
) -> None:
    """psycopg's pool alone would wait five seconds, leak the connections, and wait ten more to cancel."""
    settings = settings_of(
        proxy_url(database, proxy.port), db_min_connections=5, db_connect_timeout=10, shutdown_grace=0.3
    )
    proxy.delay = 0.02
    application = Application(settings)
    await application.start()
    await asyncio.sleep(moment)
    proxy.hang()
    began = now()
    async with asyncio.timeout(STOP_TIMEOUT_S):
        await application.stop()
    assert now() - began < 4
    assert not leaked_tasks()


@pytest.mark.soak
@pytest.mark.usefixtures("busy")
async def test_a_stop_at_any_moment_completes_without_leaks(
    database: Database, proxy: FaultProxy, report: FaultReport, caplog: pytest.LogCaptureFixture
) -> None:
    # pytest keeps log records until the end of the test, and their errors keep connections alive.
    caplog.set_level(logging.CRITICAL, logger="psycopg")
    chance = random.Random(1)  # noqa: S311  the same each time
    before: Footprint | None = None
    for turn in range(RUNS):
        application = Application(settings_of(proxy_url(database, proxy.port), shutdown_grace=0.3))
        await application.start()
        async with cids_of(application) as cids:
            calls = [asyncio.create_task(call(cids, 100 * turn + number)) for number in range(8)]
            await asyncio.sleep(chance.choice((0, 0.001, 0.01, 0.05, 0.1)))
            fault = chance.choice((None, None, proxy.cut, proxy.hang))
            if fault is not None:
                fault()
                await asyncio.sleep(chance.choice((0, 0.01, 0.6)))
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await application.stop()
            proxy.flow()
            await asyncio.gather(*calls)
        assert not leaked_tasks(), turn
        if turn == RUNS // 10:
            before = Footprint.now()
    assert before is not None
    grown = Footprint.now().grown_since(before)
    report.figure("grown", grown)
    assert grown["descriptors"] <= 16
    assert grown["megabytes"] < 50
