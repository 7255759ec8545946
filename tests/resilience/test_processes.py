"""vsyncd itself stops under load, orderly or with SIGKILL."""

import signal
from pathlib import Path

import grpc
import pytest
from vsync.v1 import cid_pb2_grpc

from tests.harness.clusters import Database
from tests.harness.owners import until
from tests.harness.processes import ServerProcess, server_process
from tests.harness.recorded_writes import RecordedWrites
from tests.harness.recovery import FaultReport
from tests.harness.stopwatch import now

# gRPC itself reports refused and lost connections, without a reason.
DISCONNECTED = "UNAVAILABLE"
SHUTTING_DOWN = "UNAVAILABLE SHUTTING_DOWN"
CALLERS = 32
# Clients reconnect at once, so that the server's recovery is measured.
RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300))


async def restarts(
    database: Database, log: Path, report: FaultReport, *, number: signal.Signals, times: int
) -> RecordedWrites:
    """Writes during restarts of the server."""
    with server_process(database, log) as server:
        async with grpc.aio.insecure_channel(server.target, options=RECONNECT) as channel:
            writes = RecordedWrites(cid_pb2_grpc.CidServiceStub(channel))
            async with writes.running(CALLERS):
                for _ in range(times):
                    await writes.progress(5 * CALLERS)
                    await server.restart(number)
                report.recovered(await writes.progress(5 * CALLERS), writes.errors)
    return writes


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.soak), signal.SIGKILL])
async def test_a_restart_under_load_loses_and_duplicates_no_write(
    database: Database, folder: Path, report: FaultReport, number: signal.Signals
) -> None:
    writes = await restarts(database, folder / "log", report, number=number, times=1)
    writes.check(database, allowed={DISCONNECTED, SHUTTING_DOWN} if number is signal.SIGTERM else {DISCONNECTED})
    assert writes.errors


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_repeated_restarts_under_load_lose_and_duplicate_no_write(
    database: Database, folder: Path, report: FaultReport, number: signal.Signals
) -> None:
    writes = await restarts(database, folder / "log", report, number=number, times=25)
    writes.check(database, allowed={DISCONNECTED, SHUTTING_DOWN})


@pytest.fixture
def draining(database: Database, folder: Path) -> ServerProcess:
    """A server in its long SHUTDOWN_DELAY."""
    server = ServerProcess(database, folder / "log", SHUTDOWN_DELAY="19", SHUTDOWN_GRACE="20")
    server.start()
    server.send(signal.SIGTERM)
    until(lambda: "draining" in (folder / "log").read_text())
    return server


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_a_second_signal_ends_the_server_at_once(draining: ServerProcess, folder: Path, number: signal.Signals) -> None:
    began = now()
    draining.send(number)
    assert draining.wait() == 128 + number
    assert now() - began < 5
    assert "process ended by a second signal" in (folder / "log").read_text()
