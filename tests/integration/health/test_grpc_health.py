"""grpc.health.v1, called by its stubs and by common probes."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc
from vsyncd.config import load_settings
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.transport.server import build_server

Health = Any  # a HealthStub of grpc_health, whose published types know no methods
SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
async def status() -> ServingStatus:
    status = ServingStatus()
    status.add({"vsync.v1.CidService": "vsync"})
    return status


@pytest.fixture
async def target(status: ServingStatus) -> AsyncIterator[str]:
    register = partial(health_pb2_grpc.add_HealthServicer_to_server, status)
    server, port, _ = build_server(load_settings(grpc_listen="127.0.0.1:0"), [], [register])
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def health(target: str) -> AsyncIterator[Health]:
    async with grpc.aio.insecure_channel(target) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def test_only_liveness_is_serving_before_the_first_check(health: Health, status: ServingStatus) -> None:
    everything = pb.HealthListRequest()  # type: ignore[attr-defined]  # the published types are older than List
    listed = (await health.List(everything)).statuses
    assert {name: answer.status for name, answer in listed.items()} == {
        "": NOT_SERVING,
        "liveness": SERVING,
        "readiness": NOT_SERVING,
        "vsync.v1.CidService": NOT_SERVING,
    }
    status.set_ready(ready=True)
    listed = (await health.List(everything)).statuses
    assert {answer.status for answer in listed.values()} == {SERVING}
    for name in listed:
        assert (await health.Check(pb.HealthCheckRequest(service=name))).status == SERVING


async def test_an_unknown_name_is_not_found_and_can_be_watched_until_it_is_known(
    health: Health, status: ServingStatus
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await health.Check(pb.HealthCheckRequest(service="later"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(pb.HealthCheckRequest(service="later"))
    assert (await watch.read()).status == SERVICE_UNKNOWN
    status.add({"later": "vsync"})
    assert (await watch.read()).status == NOT_SERVING
    status.set_ready(ready=True)
    assert (await watch.read()).status == SERVING
    watch.cancel()


async def test_a_watcher_that_does_not_read_delays_no_other(health: Health, status: ServingStatus) -> None:
    silent = health.Watch(pb.HealthCheckRequest(service=""))
    reader = health.Watch(pb.HealthCheckRequest(service=""))
    assert (await reader.read()).status == NOT_SERVING
    async with asyncio.timeout(60):
        for number in range(1, 400):
            status.set_ready(ready=bool(number % 2))
            assert (await reader.read()).status == (SERVING if number % 2 else NOT_SERVING)
    silent.cancel()
    reader.cancel()


def run(*command: str) -> int:
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode


async def probe(command: Sequence[str]) -> int:
    return await asyncio.to_thread(run, *command)


# Its releases are named with underscores, what `go install` makes with hyphens.
PROBE = shutil.which("grpc_health_probe") or shutil.which("grpc-health-probe")


@pytest.mark.skipif(PROBE is None, reason="grpc_health_probe is not on the PATH")
async def test_grpc_health_probe_distinguishes_readiness(target: str, status: ServingStatus) -> None:
    command = [str(PROBE), f"-addr={target}"]
    assert await probe(command) == 4
    assert await probe([*command, "-service=liveness"]) == 0
    status.set_ready(ready=True)
    assert await probe(command) == 0
    assert await probe([*command, "-service=vsync.v1.CidService"]) == 0
    assert await probe([*command, "-service=unknown"]) == 3


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not on the PATH")
async def test_grpcurl_finds_the_health_service_by_reflection(target: str, status: ServingStatus) -> None:
    status.set_ready(ready=True)
    assert await probe(["grpcurl", "-plaintext", target, "grpc.health.v1.Health/Check"]) == 0
