"""A load generator for unary calls that needs a tenth of the CPU time of a gRPC client.

It implements only the part of HTTP/2 (RFC 9113) that calls over one connection need. Every request is a prepared
HEADERS and DATA frame in which only the stream number changes. Of an answer only the frame headers are read. A call
without a message in its answer is an error.

`python -m bench.load PORT METHOD CONCURRENCY [CERTIFICATES]` reads length-prefixed requests from standard input, sends
them with this concurrency, and prints the seconds and the number of errors. CERTIFICATES is a folder of `vsyncd
dev-certs` for a server with TLS.
"""

import asyncio
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, cast

import uvloop

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
# The maximum, so that no answer waits for flow control (RFC 9113, 6.9.1).
_WINDOW: Final = 2**31 - 1
_DEFAULT_WINDOW: Final = 65_535


def run(
    port: int, method: str, requests: Sequence[bytes], *, concurrency: int, certificates: Path | None = None
) -> float:
    """Returns calls per second. Raises RuntimeError if a call failed."""
    command = [sys.executable, "-m", "bench.load", str(port), method, str(concurrency)]
    command += [] if certificates is None else [str(certificates)]
    data = b"".join(struct.pack("!I", len(request)) + request for request in requests)
    result = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True)
    seconds, errors = result.stdout.split()
    if int(errors):
        raise RuntimeError(f"{int(errors)} of {len(requests)} calls of {method} failed")
    return len(requests) / float(seconds)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!IBI", len(payload) << 8 | kind, flags, stream) + payload


def _headers(port: int, method: str) -> bytes:
    """Returns the header block of every call, without Huffman coding or the dynamic table (RFC 7541, 6.1 and 6.2.2)."""

    def text(value: str) -> bytes:
        return bytes((len(value),)) + value.encode()

    return (
        b"\x83\x86"  # :method POST, :scheme http
        + (b"\x04" + text(method))  # :path
        + (b"\x01" + text(f"127.0.0.1:{port}"))  # :authority
        + (b"\x0f\x10" + text("application/grpc"))  # content-type
        + (b"\x00" + text("te") + text("trailers"))
    )


class _Connection(asyncio.Protocol):
    """Sends all requests with the given concurrency."""

    def __init__(self, headers: bytes, requests: Sequence[bytes], concurrency: int) -> None:
        self._headers = headers
        self._left: Iterator[bytes] = iter(requests)
        self._unanswered = len(requests)
        self._concurrency = concurrency
        self._in_flight = 0
        self._window = _DEFAULT_WINDOW
        self._next_stream = 1
        self._held: bytes | None = None  # a request that exceeded the flow-control window
        self._answered: set[int] = set()
        self._buffer = bytearray()
        self.errors = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        settings = struct.pack("!HI", 4, _WINDOW)  # SETTINGS_INITIAL_WINDOW_SIZE
        grant = struct.pack("!I", _WINDOW - _DEFAULT_WINDOW)
        begin = _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, grant)
        self._transport.write(begin + b"".join(self._more()))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at, out = 0, list[bytes]()
        while len(buffer) - at >= 9:
            word, flags, stream = struct.unpack_from("!IBI", buffer, at)
            end = at + 9 + (word >> 8)
            if end > len(buffer):
                break
            self._frame_received(word & 0xFF, flags, stream, bytes(buffer[at + 9 : end]), out)
            at = end
        del buffer[:at]
        out += self._more()
        if out:
            self._transport.write(b"".join(out))

    def _frame_received(self, kind: int, flags: int, stream: int, payload: bytes, out: list[bytes]) -> None:
        if kind == _DATA:
            self._answered.add(stream)
        elif (kind == _HEADERS and flags & _END_STREAM) or kind == _RST_STREAM:
            if stream in self._answered:
                self._answered.discard(stream)
            else:
                self.errors += 1
            self._in_flight -= 1
            self._unanswered -= 1
            if not self._unanswered:
                self.done.set_result(None)
        elif kind == _SETTINGS and not flags & _ACK:
            out.append(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            out.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += struct.unpack("!I", payload)[0]
        elif kind == _GOAWAY:
            self._transport.close()

    def _more(self) -> Iterator[bytes]:
        while self._in_flight < self._concurrency:
            request = self._held or next(self._left, None)
            if request is None:
                return
            message = b"\0" + struct.pack("!I", len(request)) + request
            if len(message) > self._window:
                self._held = request
                return
            self._held = None
            self._window -= len(message)
            self._in_flight += 1
            yield _frame(_HEADERS, _END_HEADERS, self._next_stream, self._headers)
            yield _frame(_DATA, _END_STREAM, self._next_stream, message)
            self._next_stream += 2


async def _drive(
    port: int, method: str, concurrency: int, requests: list[bytes], tls: ssl.SSLContext | None
) -> tuple[float, int]:
    begin = time.perf_counter()
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: _Connection(_headers(port, method), requests, concurrency), "127.0.0.1", port, ssl=tls
    )
    await connection.done
    return time.perf_counter() - begin, connection.errors


def _tls(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "client.pem", folder / "client.key")
    context.set_alpn_protocols(["h2"])
    return context


def _read() -> list[bytes]:
    data = sys.stdin.buffer.read()
    requests, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("!I", data, at)
        requests.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return requests


if __name__ == "__main__":
    given = _tls(Path(sys.argv[4])) if sys.argv[4:] else None
    print(*uvloop.run(_drive(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), _read(), given)))
