"""A hostile HTTP/2 client: it opens calls and never sends their requests. gRPC's own client cannot do that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 1, 3, 4, 6, 7
_ACK = 1
_END_HEADERS = 4
_BATCH: Final = 100


def _text(value: str) -> bytes:
    """Returns a string of HPACK."""
    assert len(value) < 127
    return bytes([len(value)]) + value.encode()


def _headers(path: str) -> bytes:
    # Entries of HPACK's static table (POST, http, :path, :authority, content-type), and one new name.
    authority, grpc = b"\x01" + _text("test"), b"\x0f\x10" + _text("application/grpc")
    return b"\x83\x86\x04" + _text(path) + authority + grpc + b"\0" + _text("te") + _text("trailers")


def _frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


@dataclass
class HalfOpen:
    """What the server has done to the calls."""

    opened: int = 0
    reset: int = 0
    statuses: bytes = b""  # the headers of the last answer
    closed: int = 0
    last_words: bytes = b""  # of the last GOAWAY


@contextlib.asynccontextmanager
async def half_open_calls(port: int, path: str, *, connections: int, calls: int) -> AsyncIterator[HalfOpen]:
    """Opens `calls` calls on each connection, in the background until the end of the block."""
    state = HalfOpen()
    clients = [asyncio.create_task(_hold(port, path, calls, state)) for _ in range(connections)]
    try:
        yield state
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _hold(port: int, path: str, calls: int, state: HalfOpen) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_PREFACE + _frame(_SETTINGS))
        async with asyncio.TaskGroup() as group:
            group.create_task(_open(writer, path, calls, state))
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3]))
                if head[3] in {_PING, _SETTINGS} and not head[4] & _ACK:
                    writer.write(_frame(head[3], _ACK, payload=payload if head[3] == _PING else b""))
                elif head[3] == _RST_STREAM:
                    state.reset += 1
                elif head[3] == _HEADERS:
                    state.statuses = payload
                elif head[3] == _GOAWAY:
                    state.last_words = payload[8:]
    except* (OSError, asyncio.IncompleteReadError):
        state.closed += 1
    finally:
        writer.close()


async def _open(writer: asyncio.StreamWriter, path: str, calls: int, state: HalfOpen) -> None:
    headers = _headers(path)
    for number in range(calls):
        writer.write(_frame(_HEADERS, _END_HEADERS, 2 * number + 1, headers))
        state.opened += 1
        if number % _BATCH == 0:
            await writer.drain()
