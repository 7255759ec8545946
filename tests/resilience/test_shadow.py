"""Shadow evaluations under faults: no acknowledged evaluation is lost or counted twice."""

import asyncio
import signal
from pathlib import Path

import grpc
import pytest
from vsync.shadow.v1 import shadow_pb2_grpc
from vsyncd.app import Application

from tests.harness.cids import until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.harness.processes import ServerProcess
from tests.harness.recovery import FaultReport
from tests.harness.shadow import RecordedEvaluations
from tests.resilience.conftest import DEADLINE, at_baseline
from tests.resilience.test_processes import DISCONNECTED, RECONNECT

CALLERS = 16


@pytest.mark.soak
async def test_a_killed_service_loses_and_duplicates_no_evaluation(
    database: Database, folder: Path, report: FaultReport
) -> None:
    server = ServerProcess(database, folder / "log", DOMAINS="shadow")
    server.start()
    try:
        async with grpc.aio.insecure_channel(server.target, options=RECONNECT) as channel:
            writes = RecordedEvaluations(shadow_pb2_grpc.ShadowServiceStub(channel))
            async with writes.running(CALLERS):
                for _ in range(20):
                    await writes.progress(5 * CALLERS)
                    await server.restart(signal.SIGKILL)
                report.recovered(await writes.progress(5 * CALLERS), writes.errors)
    finally:
        server.stop()
    writes.check(database, allowed={DISCONNECTED})
    assert writes.errors


@pytest.mark.settings(domains="shadow")
@pytest.mark.parametrize(
    "fault",
    [
        "cut",
        pytest.param("hang", marks=pytest.mark.soak),
        pytest.param("kill", marks=pytest.mark.soak),
    ],
)
async def test_a_fault_of_the_database_loses_and_duplicates_no_evaluation(
    application: Application,
    database: Database,
    server: PrivateServer,
    proxy: FaultProxy,
    report: FaultReport,
    *,
    fault: str,
) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        stub = shadow_pb2_grpc.ShadowServiceStub(channel)
        writes = RecordedEvaluations(stub, deadline=DEADLINE)
        async with writes.running(CALLERS):
            await writes.progress(20)
            if fault == "cut":
                for _ in range(5):
                    # The answer to a statement that commits is lost.
                    proxy.cut_answer_to(b"json_to_recordset")
                    cuts = proxy.cuts
                    await until(lambda cuts=cuts: proxy.cuts > cuts)  # type: ignore[misc]  # a default binds the number
                    await writes.progress(10)
            else:
                await _break(application, server, proxy, fault)
            report.recovered(await writes.progress(50), writes.errors)
    writes.check(database)
    await at_baseline(application)


async def _break(application: Application, server: PrivateServer, proxy: FaultProxy, fault: str) -> None:
    """Breaks the connection to the database until the circuit breaker is open, and repairs it."""
    breaker = application.database.primary.breaker
    if fault == "kill":
        await asyncio.to_thread(server.stop, signal.SIGKILL)
    else:
        proxy.hang()
    await until(lambda: not breaker.closed)
    if fault == "kill":
        await asyncio.to_thread(server.start)
    else:
        proxy.flow()
