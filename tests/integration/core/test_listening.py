"""gRPC and HTTP accept the same connections for the same address."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from vsyncd.config import StartError
from vsyncd.config.endpoints import parse_host_port
from vsyncd.http.server import HttpServer, Response
from vsyncd.transport.server import build_server

from tests.harness.serving import settings_for

ANY_IPV4 = "0.0.0.0"  # noqa: S104  its meaning is tested
LOOPBACK = ("127.0.0.1", "::1")
Serve = Callable[[str], AbstractAsyncContextManager[int]]


@asynccontextmanager
async def grpc_on(listen: str) -> AsyncIterator[int]:
    settings = settings_for("postgresql://nobody@127.0.0.1:1/nothing", grpc_listen=listen, allow_insecure=True)
    servicer = health.aio.HealthServicer()
    server, port, _ = build_server(
        settings, [], [lambda registry: health_pb2_grpc.add_HealthServicer_to_server(servicer, registry)]
    )
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def pong(_: Mapping[str, str]) -> Response:
    return Response(HTTPStatus.OK, b"pong")


@asynccontextmanager
async def http_on(listen: str) -> AsyncIterator[int]:
    server = HttpServer({"/ping": pong})
    try:
        yield await server.start(parse_host_port(listen))
    finally:
        await server.stop()


def available(*addresses: str) -> set[str]:
    """Those of these addresses that this machine has."""
    found = set()
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with suppress(OSError), socket.create_server((address, 0), family=family):
            found.add(address)
    return found


def addresses_of(name: str) -> set[str]:
    found = {str(sockaddr[0]) for *_, sockaddr in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)}
    return available(*found) & set(LOOPBACK)


async def reachable(port: int) -> set[str]:
    """The loopback addresses on which the port accepts connections."""
    found = set()
    for address in LOOPBACK:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(address, port)
            writer.close()
            found.add(address)
    return found


@pytest.mark.parametrize("serve", [grpc_on, http_on])
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        (ANY_IPV4, available(*LOOPBACK)),
        ("[::]", available(*LOOPBACK)),
        ("localhost", addresses_of("localhost")),
        pytest.param(
            "[::1]", {"::1"}, marks=pytest.mark.skipif(available("::1") == set(), reason="this machine has no IPv6")
        ),
    ],
)
async def test_an_address_accepts_the_same_families_over_grpc_and_http(
    serve: Serve, host: str, expected: set[str]
) -> None:
    async with serve(f"{host}:0") as port:
        assert await reachable(port) == expected


@pytest.mark.parametrize("listen", ["[::]:0", f"{ANY_IPV4}:0"])
async def test_a_wildcard_address_answers_calls_over_both_families(listen: str) -> None:
    async with grpc_on(listen) as grpc_port, http_on(listen) as http_port:
        for address in available(*LOOPBACK):
            target = f"ipv6:[{address}]:{grpc_port}" if ":" in address else f"ipv4:{address}:{grpc_port}"
            async with grpc.aio.insecure_channel(target) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                answer = await stub.Check(health_pb2.HealthCheckRequest())
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            reader, writer = await asyncio.open_connection(address, http_port)
            writer.write(b"GET /ping HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"pong")
            writer.close()


@pytest.mark.parametrize("serve", [grpc_on, http_on])
@pytest.mark.parametrize("host", ["127.0.0.1", ANY_IPV4, "[::]", "localhost"])
async def test_a_port_that_is_taken_on_one_address_stops_the_start(serve: Serve, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises((StartError, OSError)):
        async with serve(f"{host}:{taken.getsockname()[1]}"):
            pass


@pytest.mark.parametrize("serve", [grpc_on, http_on])
async def test_a_host_name_that_does_not_exist_stops_the_start(serve: Serve) -> None:
    with pytest.raises((StartError, OSError)):
        async with serve("nothing.invalid:0"):
            pass
