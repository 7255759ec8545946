"""Clients that open many connections and calls, against a server process with the default limits."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from vsync.health.v1 import health_pb2, health_pb2_grpc
from vsync.v1 import cid_pb2, cid_pb2_grpc, reconciliation_pb2, reconciliation_pb2_grpc

from tests.harness.access import bearer, key_settings
from tests.harness.cids import failure_of, info_of
from tests.harness.clusters import Database
from tests.harness.half_open import half_open_calls
from tests.harness.http import get
from tests.harness.processes import ServerProcess

pytestmark = pytest.mark.soak

CONNECTIONS, CALLS = 250, 1100
# For the default MAX_CONCURRENT_CALLS.
MAX_OPEN = 1100
IDLE_CONNECTIONS = 1100
MAX_RESIDENT_BYTES = 400 * 1024**2
USUAL_FILES_LIMIT = 1024


@pytest.fixture
def server(database: Database, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that authenticates the callers `one` and `other`."""
    keys = key_settings(tmp_path, {"one": ["reader"], "other": ["reader"]})
    settings = {name.upper(): str(value) for name, value in keys.items()}
    server = ServerProcess(database, tmp_path / "log", **settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL_FILES_LIMIT, hard))
    try:
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    yield server
    server.stop()


def connect(server: ServerProcess) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(server.target, options=[("grpc.use_local_subchannel_pool", 1)])


async def assert_served(server: ServerProcess, caller: str) -> None:
    """Probes and a new connection of this caller are served."""
    for path in ("/live", "/ready"):
        assert (await get(server.http_port, path)).status == 200
    async with connect(server) as channel:
        await health_pb2_grpc.HealthStub(channel).GetHealth(health_pb2.HealthRequest(), timeout=60)
        cids: Any = cid_pb2_grpc.CidServiceStub(channel)
        await cids.CountCids(cid_pb2.CountCidsRequest(), metadata=bearer(caller), timeout=60)
        stream = watch(channel, caller)
        await stream.read()
        stream.cancel()


def watch(channel: grpc.aio.Channel, caller: str) -> Any:
    stub: Any = reconciliation_pb2_grpc.ReconciliationServiceStub(channel)
    return stub.WatchCidEvents(reconciliation_pb2.WatchCidEventsRequest(), metadata=bearer(caller))


@contextlib.asynccontextmanager
async def peak_memory(server: ServerProcess) -> AsyncIterator[list[int]]:
    """Measures the resident memory of the server until the end of the block."""
    process = psutil.Process(server.pid)
    sizes = [process.memory_info().rss]

    async def sample() -> None:
        while True:
            sizes.append(process.memory_info().rss)
            await asyncio.sleep(0.05)

    sampling = asyncio.create_task(sample())
    try:
        yield sizes
    finally:
        sampling.cancel()
        print(f"resident memory: {sizes[0] >> 20} MiB, at most {max(sizes) >> 20} MiB, then {sizes[-1] >> 20} MiB")  # noqa: T201  the measurement


@pytest.mark.parametrize(
    "path", ["/vsync.v1.CidService/GetCid", "/vsync.v1.CidService/ImportCids", "/grpc.health.v1.Health/Watch"]
)
async def test_calls_without_requests_do_not_use_up_memory(server: ServerProcess, path: str) -> None:
    port = int(server.target.rpartition(":")[2])
    async with (
        peak_memory(server) as sizes,
        half_open_calls(port, path, connections=CONNECTIONS, calls=CALLS) as hostile,
        asyncio.timeout(600),
    ):
        # All other calls have been ended.
        while hostile.reset + hostile.closed * CALLS < CONNECTIONS * CALLS - MAX_OPEN:  # noqa: ASYNC110  counters, not events
            await asyncio.sleep(0.1)
        await assert_served(server, "one")
    assert max(sizes) < MAX_RESIDENT_BYTES


async def test_idle_streams_of_one_client_leave_the_others_served(server: ServerProcess) -> None:
    async with connect(server) as channel:
        streams = [watch(channel, "one") for _ in range(250)]
        answers = await asyncio.gather(*(stream.read() for stream in streams), return_exceptions=True)
        rejected = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert len(rejected) == 150
        assert {info_of(error).reason for error in rejected} == {"QUOTA_EXCEEDED"}
        await assert_served(server, "other")
        cids: Any = cid_pb2_grpc.CidServiceStub(channel)
        await cids.CountCids(cid_pb2.CountCidsRequest(), metadata=bearer("one"))
        assert info_of(await failure_of(watch(channel, "one").read())).reason == "QUOTA_EXCEEDED"
        for stream in streams:
            stream.cancel()


@pytest.mark.parametrize("listener", ["gRPC", "HTTP"])
async def test_idle_connections_leave_probes_and_callers_served(server: ServerProcess, listener: str) -> None:
    port = int(server.target.rpartition(":")[2]) if listener == "gRPC" else server.http_port
    with ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port)))
        await assert_served(server, "one")
