"""Limits of connections, and of calls whose requests do not arrive."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from vsyncd.health.grpc_service import LIVENESS, ServingStatus
from vsyncd.transport.server import build_server

from tests.harness.cids import until
from tests.harness.half_open import half_open_calls
from tests.harness.serving import settings_for

CALL = "/test.v1.Service/Call"
MAX_CALLS = 5
# For this MAX_CONCURRENT_CALLS.
MAX_OPEN = 110


def register(registry: Any) -> None:
    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    async def watch(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield request
        await asyncio.Event().wait()

    handlers: dict[str, Any] = {
        "Call": grpc.unary_unary_rpc_method_handler(echo),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    registry.add_registered_method_handlers("test.v1.Service", handlers)


@contextlib.asynccontextmanager
async def served(**overrides: Any) -> AsyncIterator[int]:
    """Serves the service and grpc.health.v1. Yields the port."""
    settings = settings_for("postgresql://nobody@127.0.0.1:1/nothing", max_concurrent_calls=MAX_CALLS, **overrides)
    health = partial(health_pb2_grpc.add_HealthServicer_to_server, ServingStatus())
    server, port, _ = build_server(settings, [register], [health])
    await server.start()
    try:
        async with asyncio.timeout(120):
            yield port
    finally:
        await server.stop(None)


def connect(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])


@pytest.mark.parametrize(
    "path",
    [
        CALL,
        "/test.v1.Service/Watch",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_calls_without_requests_are_limited_and_do_not_affect_others(path: str) -> None:
    async with served() as port, half_open_calls(port, path, connections=3, calls=100) as hostile:
        await until(lambda: hostile.reset >= 3 * 100 - MAX_OPEN)
        assert hostile.reset == 3 * 100 - MAX_OPEN
        async with connect(port) as channel:
            method: Any = channel.unary_unary(CALL)
            assert await method(b"request") == b"request"
            health: Any = health_pb2_grpc.HealthStub(channel)
            await health.Check(health_pb2.HealthCheckRequest(service=LIVENESS))


async def test_health_watches_are_limited() -> None:
    async with served() as port, connect(port) as channel, connect(port) as other:
        request = health_pb2.HealthCheckRequest(service=LIVENESS)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        first = stub.Watch(request)
        assert await first.read()
        other_stub: Any = health_pb2_grpc.HealthStub(other)
        watches = [other_stub.Watch(request) for _ in range(MAX_OPEN)]
        for watch in watches:
            assert await watch.read()
        assert await first.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for watch in watches:
            assert not watch.done()
            watch.cancel()


@pytest.mark.parametrize("path", [CALL, "/grpc.health.v1.Health/Check"])
async def test_a_call_whose_request_does_not_arrive_is_ended(path: str) -> None:
    async with (
        served(stream_idle_timeout=0.2) as port,
        half_open_calls(port, path, connections=1, calls=1) as hostile,
    ):
        await until(lambda: hostile.reset == 1)
    assert b"grpc-status\x014" in hostile.statuses
    assert b"No request arrived in time." in hostile.statuses


async def test_a_call_that_is_closed_without_a_request_is_answered() -> None:
    async with served() as port, connect(port) as channel:
        method: Any = channel.stream_unary(CALL)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await method(iter(()))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_further_connections_are_closed() -> None:
    async with served(max_connections=3) as port, contextlib.AsyncExitStack() as stack:
        states = [
            await stack.enter_async_context(half_open_calls(port, CALL, connections=1, calls=1)) for _ in range(5)
        ]
        await until(lambda: sum(state.closed for state in states) == 2)


async def test_connections_without_http2_are_closed() -> None:
    async with served(handshake_timeout=0.2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_old_connections_are_closed_after_the_grace_period() -> None:
    async with (
        served(connection_max_age=0.2, connection_max_age_grace=0.2) as port,
        half_open_calls(port, CALL, connections=1, calls=1) as hostile,
    ):
        await until(lambda: hostile.closed == 1)
    assert hostile.last_words == b"max_age"
