"""IOCs under faults: no acknowledged IOC is lost, and none is stored twice."""

import asyncio
import signal
from pathlib import Path

import grpc
import pytest
from vsync.iocs.v1.ioc_pb2_grpc import IocServiceStub
from vsyncd.app import Application

from tests.harness.cids import until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.iocs import RecordedIocs
from tests.harness.private_servers import PrivateServer
from tests.harness.processes import ServerProcess
from tests.harness.recovery import FaultReport
from tests.resilience.conftest import DEADLINE, at_baseline
from tests.resilience.test_processes import DISCONNECTED, RECONNECT

CALLERS = 6


@pytest.mark.soak
@pytest.mark.parametrize("times", [1, 20])
async def test_a_killed_service_loses_and_duplicates_no_ioc(
    database: Database, folder: Path, report: FaultReport, times: int
) -> None:
    server = ServerProcess(database, folder / "log", DOMAINS="iocs")
    server.start()
    try:
        async with grpc.aio.insecure_channel(server.target, options=RECONNECT) as channel:
            writes = RecordedIocs(IocServiceStub(channel))
            async with writes.running(CALLERS):
                for _ in range(times):
                    await writes.progress(3 * CALLERS)
                    await server.restart(signal.SIGKILL)
                report.recovered(await writes.progress(3 * CALLERS), writes.errors)
    finally:
        server.stop()
    writes.check(database, allowed={DISCONNECTED})


@pytest.mark.settings(domains="iocs")
@pytest.mark.parametrize(
    "fault",
    ["cut", pytest.param("hang", marks=pytest.mark.soak), pytest.param("kill", marks=pytest.mark.soak)],
)
async def test_a_fault_of_the_database_loses_and_duplicates_no_ioc(
    application: Application,
    database: Database,
    server: PrivateServer,
    proxy: FaultProxy,
    report: FaultReport,
    *,
    fault: str,
) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        writes = RecordedIocs(IocServiceStub(channel), deadline=DEADLINE)
        async with writes.running(CALLERS):
            await writes.progress(20)
            if fault == "cut":
                for _ in range(5):
                    # The answer to a commit is lost.
                    proxy.cut_answer_to(b"COMMIT")
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
