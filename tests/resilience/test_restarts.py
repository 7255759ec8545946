"""vsyncd starts and stops, again and again, whatever is under way: nothing hangs, and nothing is left."""

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

# Seconds: the grace of the tests' settings, the clean-up, and a machine that does other things.
MOST = 20
TIMES = 500


@pytest.fixture
async def busy() -> AsyncIterator[None]:
    """An event loop that always has something else to do."""

    async def work() -> None:
        while True:  # noqa: ASYNC110  nothing is awaited
            await asyncio.sleep(0)

    task = asyncio.create_task(work())
    yield
    task.cancel()
    await asyncio.wait({task})


async def call(cids: Stub, number: int) -> None:
    """Whatever becomes of it."""
    try:
        await cids.CreateCid(pb.CreateCidRequest(record=a_record(number), request_id=a_request_id()), timeout=5)
        await cids.CountCids(pb.CountCidsRequest(), timeout=5)
    except grpc.aio.AioRpcError:
        return


def left_over() -> set[str]:
    """Tasks that an application should have ended."""
    names = {task.get_name() for task in asyncio.all_tasks()}
    return {name for name in names if name.startswith(("primary", "replica", "health"))}


# Round trips of a connection that is being made: none, in the start-up, in the setting up, and made.
@pytest.mark.parametrize("moment", [0.0, 0.03, 0.07, 0.2])
async def test_a_stop_does_not_wait_for_connections_to_a_server_that_hangs(
    database: Database, proxy: FaultProxy, moment: float
) -> None:
    """psycopg's pool would wait five seconds, leave them behind, and ask the server to cancel for ten more."""
    settings = settings_of(
        proxy_url(database, proxy.port), db_min_connections=5, db_connect_timeout=10, shutdown_grace=0.3
    )
    proxy.delay = 0.02
    application = Application(settings)
    await application.start()
    await asyncio.sleep(moment)
    proxy.hang()
    began = now()
    async with asyncio.timeout(MOST):
        await application.stop()
    assert now() - began < 4
    assert not left_over()


@pytest.mark.soak
@pytest.mark.usefixtures("busy")
async def test_a_stop_at_any_moment_ends(
    database: Database, proxy: FaultProxy, report: FaultReport, caplog: pytest.LogCaptureFixture
) -> None:
    # What is logged is kept until the test ends, and errors hold on to the connections that were not made.
    caplog.set_level(logging.CRITICAL, logger="psycopg")
    chance = random.Random(1)  # noqa: S311  the same each time
    before: Footprint | None = None
    for turn in range(TIMES):
        application = Application(settings_of(proxy_url(database, proxy.port), shutdown_grace=0.3))
        await application.start()
        async with cids_of(application) as cids:
            calls = [asyncio.create_task(call(cids, 100 * turn + number)) for number in range(8)]
            await asyncio.sleep(chance.choice((0, 0.001, 0.01, 0.05, 0.1)))
            fault = chance.choice((None, None, proxy.cut, proxy.hang))
            if fault is not None:
                fault()
                await asyncio.sleep(chance.choice((0, 0.01, 0.6)))
            async with asyncio.timeout(MOST):
                await application.stop()
            proxy.flow()
            await asyncio.gather(*calls)
        assert not left_over(), turn
        if turn == TIMES // 10:
            before = Footprint.now()
    assert before is not None
    grown = Footprint.now().grown_since(before)
    report.figure("grown", grown)
    assert grown["descriptors"] <= 16
    assert grown["megabytes"] < 50
