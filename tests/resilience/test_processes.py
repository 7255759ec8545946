"""vsyncd itself goes, under load: in good order, and as the power does."""

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

# A connection that is refused, or that breaks, is told of by gRPC itself, without a reason.
GONE = "UNAVAILABLE"
GOING = "UNAVAILABLE SHUTTING_DOWN"
CALLERS = 32
# Found again at once: what is measured is the server.
RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300))


async def restarts(
    database: Database, log: Path, report: FaultReport, *, number: signal.Signals, times: int
) -> RecordedWrites:
    """Writes through restarts of the server."""
    with server_process(database, log) as server:
        async with grpc.aio.insecure_channel(server.target, options=RECONNECT) as channel:
            writes = RecordedWrites(cid_pb2_grpc.CidServiceStub(channel))
            async with writes.by(CALLERS):
                for _ in range(times):
                    await writes.progress(5 * CALLERS)
                    await server.restart(number)
                report.recovered(await writes.progress(5 * CALLERS), writes.told)
    return writes


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.soak), signal.SIGKILL])
async def test_a_server_that_goes_under_load_loses_and_doubles_nothing(
    database: Database, folder: Path, report: FaultReport, number: signal.Signals
) -> None:
    writes = await restarts(database, folder / "log", report, number=number, times=1)
    writes.check(database, allowed={GONE, GOING} if number is signal.SIGTERM else {GONE})
    assert writes.told


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_that_goes_again_and_again_loses_and_doubles_nothing(
    database: Database, folder: Path, report: FaultReport, number: signal.Signals
) -> None:
    writes = await restarts(database, folder / "log", report, number=number, times=25)
    writes.check(database, allowed={GONE, GOING})


@pytest.fixture
def slow_to_go(database: Database, folder: Path) -> ServerProcess:
    """Started, and asked to go: it takes its time, for the balancers."""
    server = ServerProcess(database, folder / "log", SHUTDOWN_DELAY="19", SHUTDOWN_GRACE="20")
    server.start()
    server.send(signal.SIGTERM)
    until(lambda: "draining" in (folder / "log").read_text())
    return server


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_a_second_signal_ends_the_server_at_once(
    slow_to_go: ServerProcess, folder: Path, number: signal.Signals
) -> None:
    begin = now()
    slow_to_go.send(number)
    assert slow_to_go.wait() == 128 + number
    assert now() - begin < 5
    assert "process ended by a second signal" in (folder / "log").read_text()
