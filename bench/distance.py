"""A proxy to a Unix socket that delays all data in both directions.

`python -m bench.distance SOCKET SECONDS` prints "port N" and serves until it is terminated.
"""

import asyncio
import sys
from typing import cast

import uvloop


class _Way(asyncio.Protocol):
    """One end of a connection. Received data is sent at the other end after the delay."""

    def __init__(self, seconds: float, other: "_Way | None" = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None
        self._seconds = seconds
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's but not the types.
        self.transport = cast("asyncio.Transport", transport)
        for data in self._early:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            asyncio.get_running_loop().call_later(self._seconds, self.other.write, data)

    def write(self, data: bytes) -> None:
        """Sends the data as soon as the connection exists."""
        if self.transport is None:
            self._early.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def _serve(path: str, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    connecting = set()

    def accept() -> _Way:
        near, far = _Way(seconds), _Way(seconds)
        near.other, far.other = far, near
        task = loop.create_task(loop.create_unix_connection(lambda: far, path))
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", 0)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], float(sys.argv[2])))
