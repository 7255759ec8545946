"""A gRPC server in the test's own process, with the services that the test names."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from vsyncd.config import Settings
from vsyncd.domains.registry import load_settings
from vsyncd.postgres.database import Database
from vsyncd.transport.server import Registration, build_server

M = TypeVar("M", bound=Message)


def settings_for(url: str, **overrides: Any) -> Settings:
    """Settings for a server of a test on this database. A machine that pauses is no failure of a test."""
    given: dict[str, Any] = {
        "database_url": url,
        "db_min_connections": 1,
        "db_connect_timeout": 20,
        "db_acquire_timeout": 20,
        "db_ping_timeout": 20,
        "health_check_timeout": 10,
        "grpc_listen": "127.0.0.1:0",
    }
    return load_settings(**given | overrides)


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """A pool."""
    database = Database(settings)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def serving(
    settings: Settings, services: Sequence[Registration], infrastructure: Sequence[Registration] = ()
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with these services."""
    server, _, port, _ = build_server(settings, services, infrastructure)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in an answer's ErrorInfo."""
    reason: str = _detail(error, error_details_pb2.ErrorInfo()).reason
    return reason


def fields_of(error: grpc.aio.AioRpcError) -> list[str]:
    """The fields in an answer's BadRequest."""
    return [violation.field for violation in _detail(error, error_details_pb2.BadRequest()).field_violations]


def _detail(error: grpc.aio.AioRpcError, message: M) -> M:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what an AioRpcError has as well
    assert status is not None
    for detail in status.details:
        if detail.Unpack(message):
            return message
    raise AssertionError(f"no {type(message).__name__} in {status}")
