"""HTTP_LISTEN, ADMIN_LISTEN and GRPC_HEALTH_LISTEN."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from vsync.health.v1 import health_pb2 as treasury_pb2
from vsync.health.v1 import health_pb2_grpc as treasury_grpc
from vsyncd.app import Application
from vsyncd.config import Settings, StartError
from vsyncd.domains.registry import load_settings
from vsyncd.http.listeners import admin_address

from tests.harness.access import key_settings
from tests.harness.http import get

PUBLIC = ("/live", "/ready", "/health")
ADMIN = ("/health/detailed", "/health/database", "/metrics", "/", "/operations.js", "/status")
SLOW_READERS = 150
IDLE_CONNECTIONS = 140  # more than the server's limit
SEPARATE = pytest.mark.settings(admin_listen="localhost:0")


@contextmanager
def slow_readers(port: int) -> Iterator[None]:
    """Connections that request the metrics many times and read nothing, until the end of the block."""
    request = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(SLOW_READERS):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", port))
            reader.sendall(request * 200)
        yield


@contextmanager
def idle_connections(port: int) -> Iterator[None]:
    """Connections that request nothing, until the end of the block."""
    with ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "127.0.0.1:8080"),
        ({"http_listen": "localhost:1"}, "localhost:1"),
        ({"http_listen": "0.0.0.0:8080"}, "127.0.0.1:9090"),
        ({"http_listen": "[::]:8080"}, "127.0.0.1:9090"),
        ({"http_listen": "0.0.0.0:8080", "admin_listen": "0.0.0.0:9091"}, "0.0.0.0:9091"),
        ({"admin_listen": "127.0.0.1:9091"}, "127.0.0.1:9091"),
    ],
)
def test_metrics_are_on_the_local_machine_by_default(given: dict[str, str], address: str) -> None:
    assert admin_address(load_settings(**given)) == address


async def test_one_loopback_address_serves_everything_by_default(application: Application) -> None:
    assert application.http.port == application.http.admin_port
    for path in (*PUBLIC, *ADMIN):
        assert (await get(application.http.port, path)).status != 404


@SEPARATE
async def test_probes_have_no_details(application: Application) -> None:
    for path in PUBLIC:
        assert (await get(application.http.port, path)).status != 404
        assert (await get(application.http.admin_port, path)).status != 404
    for path in ADMIN:
        assert (await get(application.http.port, path)).status == 404
        assert (await get(application.http.admin_port, path)).status != 404


@SEPARATE
async def test_slow_readers_of_metrics_do_not_affect_probes(application: Application) -> None:
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, slow_readers(application.http.admin_port))
        answers = await asyncio.gather(*(get(application.http.port, "/live") for _ in range(100)))
    assert {answer.status for answer in answers} == {200}


async def test_idle_connections_do_not_affect_probes(application: Application) -> None:
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, idle_connections(application.http.port))
        answers = await asyncio.gather(*(get(application.http.port, path) for path in ("/live", "/ready") * 10))
    assert {answer.status for answer in answers} == {200}


async def test_an_admin_address_that_is_taken_stops_the_start(application: Application, settings: Settings) -> None:
    taken = settings.model_copy(update={"admin_listen": f"127.0.0.1:{application.http.port}"})
    with pytest.raises(StartError, match=r"^ADMIN_LISTEN: cannot listen on 127\.0\.0\.1:\d+: it is in use"):
        await Application(taken).start()


async def test_the_health_listener_serves_only_health_and_without_credentials(
    settings: Settings, tmp_path: Path
) -> None:
    keys = key_settings(tmp_path, {"reporting": ["reader"]})
    further = {**settings.model_dump(), **keys, "grpc_health_listen": "127.0.0.1:0"}
    async with (
        Application(type(settings).model_validate(further)) as application,
        grpc.aio.insecure_channel(f"127.0.0.1:{application.grpc_health_port}") as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="liveness"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await treasury_grpc.HealthStub(channel).GetHealth(treasury_pb2.HealthRequest(include_details=True))
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
