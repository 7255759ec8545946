"""Runs a gRPC server with selected services in the process of the test."""

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
    """Returns settings for a server on this database, with timeouts that a pause of the machine does not exceed."""
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
    """Opens a pool until the end of the block."""
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
    """Runs a server with these services. Yields a channel to it."""
    server, port, _ = build_server(settings, services, infrastructure)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Returns the reason in the ErrorInfo of an error."""
    reason: str = _detail(error, error_details_pb2.ErrorInfo()).reason
    return reason


def fields_of(error: grpc.aio.AioRpcError) -> list[str]:
    """Returns the fields in the BadRequest of an error."""
    return [violation.field for violation in _detail(error, error_details_pb2.BadRequest()).field_violations]


def _detail(error: grpc.aio.AioRpcError, message: M) -> M:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what an AioRpcError has as well
    assert status is not None
    for detail in status.details:
        if detail.Unpack(message):
            return message
    raise AssertionError(f"no {type(message).__name__} in {status}")
