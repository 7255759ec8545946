"""A proxy between vsyncd and PostgreSQL that does to the network what networks do.

It listens on TCP and leads to a server's Unix socket. What is under way and what comes later can be refused, cut,
hung, slowed, or lost without a word; a connection can also be cut when certain bytes pass, before or after they do.
"""

import asyncio
import contextlib
import socket
from typing import Self

_CHUNK = 65536


class Cue:
    """Bytes of a client upon which something happens: `text`, over a connection that has sent `after`."""

    def __init__(self, text: bytes, after: bytes) -> None:
        self._text = text
        self._after = after
        self._ready: set[object] = set()

    def given(self, connection: object, data: bytes) -> bool:
        """Whether this is it."""
        if self._after in data:
            self._ready.add(connection)
        return connection in self._ready and self._text in data


class FaultProxy:
    """`async with FaultProxy(path) as proxy`: clients connect to 127.0.0.1, `proxy.port`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.port = 0
        self.delay = 0.0
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._cut_before: Cue | None = None
        self._cut_answer_to: Cue | None = None
        self.cuts = 0

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def accept(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Take no connections, and cut those that there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        for pair in list(self._pairs):
            _reset(pair)

    def hang(self) -> None:
        """Pass on nothing more, in neither direction; connections are still taken. As a black hole does."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass on what was held back, and what comes."""
        self._flowing.set()

    def cut_before(self, text: bytes, *, after: bytes = b"") -> None:
        """Once: reset the connection over which the client sends this, before it gets through.

        `after`: what has to have been sent over the same connection since now.
        """
        self._cut_before = Cue(text, after)

    def cut_answer_to(self, text: bytes, *, after: bytes = b"") -> None:
        """Once: let this through to the server, and reset the connection when the server answers."""
        self._cut_answer_to = Cue(text, after)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self.path)
        except OSError:
            _close(writer)
            return
        pair = (writer, server_writer)
        self._pairs.add(pair)
        armed: list[bool] = []
        both = [
            asyncio.create_task(self._pass_on(reader, server_writer, pair, armed, from_client=True)),
            asyncio.create_task(self._pass_on(server_reader, writer, pair, armed, from_client=False)),
        ]
        self._tasks.update(both)
        await asyncio.gather(*both, return_exceptions=True)
        self._tasks.difference_update(both)
        self._pairs.discard(pair)
        for one in pair:
            _close(one)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        armed: list[bool],
        *,
        from_client: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if from_client and self._cut_before is not None and self._cut_before.given(pair, data):
                    self._cut_before = None
                    self._cut(pair)
                    return
                if from_client and self._cut_answer_to is not None and self._cut_answer_to.given(pair, data):
                    self._cut_answer_to = None
                    armed.append(True)
                elif not from_client and armed:
                    self._cut(pair)
                    return
                writer.write(data)
                await writer.drain()
        _close(writer)

    def _cut(self, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.cuts += 1
        _reset(pair)


def _reset(pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
    for writer in pair:
        sock = writer.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_INET:
            with contextlib.suppress(OSError):  # it went by itself
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()


def _close(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        writer.close()
