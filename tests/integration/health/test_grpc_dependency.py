"""The check of another gRPC service, against a real one."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from vsync.health.v1 import health_pb2 as pb
from vsyncd.config.endpoints import GrpcDependency, HostPort
from vsyncd.health.checkers import GrpcChecker
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.status import Finding, Observation, Status


@contextlib.asynccontextmanager
async def neighbour(status: ServingStatus | None, *, port: int = 0) -> AsyncIterator[int]:
    """Runs a gRPC server with this status, or without grpc.health.v1. Yields its port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    if status is not None:
        add_HealthServicer_to_server(status, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def checking(port: int, *, is_critical: bool = True) -> AsyncIterator[GrpcChecker]:
    checker = GrpcChecker(GrpcDependency("directory", HostPort("127.0.0.1", port), is_critical), timeout=20)
    try:
        yield checker
    finally:
        await checker.close()


async def until_healthy(checker: GrpcChecker) -> Finding:
    async with asyncio.timeout(60):
        while (finding := await checker.check()).status is not Status.HEALTHY:
            pass
    return finding


async def test_the_status_follows_the_status_of_the_service() -> None:
    status = ServingStatus()
    status.set_ready(ready=True)
    async with neighbour(status) as port, checking(port) as checker:
        assert (checker.name, checker.kind, checker.is_critical) == ("directory", pb.GRPC_SERVICE, True)
        assert await checker.check() == Finding(status=Status.HEALTHY, message="it is serving")
        status.set_ready(ready=False)
        assert (await checker.check()).error == "not serving"
        details = checker.details()
        assert (details.hostname, details.port, details.protocol) == ("127.0.0.1", port, "grpc")


async def test_a_stopped_service_is_unhealthy_until_it_is_back() -> None:
    status = ServingStatus()
    status.set_ready(ready=True)
    async with contextlib.AsyncExitStack() as stack:
        async with neighbour(status) as port:
            checker = await stack.enter_async_context(checking(port))
            assert (await checker.check()).status is Status.HEALTHY
        gone = await checker.check()
        assert (gone.status, gone.error) == (Status.UNHEALTHY, "cannot connect")
        assert str(port) not in gone.message
        await stack.enter_async_context(neighbour(status, port=port))
        assert (await until_healthy(checker)).message == "it is serving"


async def test_a_service_without_the_health_protocol_is_unhealthy() -> None:
    async with neighbour(None) as port, checking(port) as checker:
        assert (await checker.check()).error == "it does not serve grpc.health.v1"


async def test_a_service_that_hangs_is_reported_within_the_timeout() -> None:
    # It takes the connection, and nobody ever reads what is asked.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = HostPort("127.0.0.1", silent.getsockname()[1])
        checker = GrpcChecker(GrpcDependency("directory", endpoint, is_critical=False), timeout=0.3)
        board = DependencyRegistry([checker], timeout=0.3, max_age=0)
        try:
            async with asyncio.timeout(60):
                seen: list[Observation] = await board.observe()
        finally:
            await board.close()
    assert (seen[0].status, seen[0].error, seen[0].is_critical) == (Status.UNHEALTHY, "timeout", False)
