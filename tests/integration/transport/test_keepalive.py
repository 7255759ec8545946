"""How often clients may ping. HTTP/2 frames are sent over a socket: a gRPC client pings by its own clock."""

import asyncio
from typing import Final

import pytest
from vsyncd.transport.server import build_server, server_options

from tests.harness.serving import settings_for

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS: Final = b"\0\0\0\4\0\0\0\0\0"
_PING: Final = b"\0\0\x08\6\0\0\0\0\0" + b"\0" * 8
_PING_TYPE, _GOAWAY_TYPE, _ACK = 6, 7, 1
PINGS: Final = 10


async def ping(port: int) -> bytes | None:
    """Sends pings, each after the last answer. Returns the reason of a GOAWAY, or None if all are answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_PREFACE + _SETTINGS)
        for _ in range(PINGS):
            await asyncio.sleep(0.01)  # more than the interval of the test
            writer.write(_PING)
            if (reason := await _answer(reader)) is not None:
                return reason
        return None
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> bytes | None:
    """Reads until the answer to a ping or a GOAWAY. Returns the reason of the GOAWAY."""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3]))
        if head[3] == _GOAWAY_TYPE:
            return payload[8:]
        if head[3] == _PING_TYPE and head[4] & _ACK:
            return None


@pytest.mark.parametrize(("interval", "reason"), [(0.01, None), (1000, b"too_many_pings")])
async def test_clients_may_ping_at_the_configured_interval_but_not_more_often(
    interval: float, reason: bytes | None
) -> None:
    settings = settings_for("postgresql://nobody@127.0.0.1:1/nothing", grpc_min_ping_interval=interval)
    server, port, _ = build_server(settings, [])
    await server.start()
    try:
        async with asyncio.timeout(60):
            assert await ping(port) == reason
    finally:
        await server.stop(None)


def test_the_shortest_keepalive_of_grpc_go_is_permitted_by_default() -> None:
    options = dict(server_options(settings_for("postgresql://nobody@127.0.0.1:1/nothing")))
    assert options["grpc.http2.min_ping_interval_without_data_ms"] <= 5_000, "10 s, with room for delays"
