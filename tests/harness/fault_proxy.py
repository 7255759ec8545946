"""A TCP proxy that injects network faults between vsyncd and PostgreSQL or Redis, or between a client and vsyncd.

It forwards to a server's Unix socket or port. Connections can be refused, reset, stalled, delayed, or silently lost.
A connection can also be reset when certain bytes pass, before or after the server has received them.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Self

from tests.harness.ports import free_port

_CHUNK_BYTES = 65536
_RECORDED_BYTES = 4096


class Trigger:
    """Matches `text` from a client, on a connection that has sent `after` before or with it."""

    def __init__(self, text: bytes, after: bytes) -> None:
        self._text = text
        self._after = after
        self._ready: set[object] = set()

    def matches(self, connection: object, data: bytes) -> bool:
        """Whether the data contains the text."""
        if self._after in data:
            self._ready.add(connection)
        return connection in self._ready and self._text in data


class Link:
    """A client's connection, and the connection to the server once it exists."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]
        self.is_reset = False
        self.first_bytes = b""  # from the client
        self.drops_data = False  # without closing the connection
        self.reset_on_answer = False

    def add(self, server: asyncio.StreamWriter) -> None:
        """Adds the connection to the server."""
        self.writers.append(server)
        if self.is_reset:
            self.reset()

    def reset(self) -> None:
        """Resets both connections, as a crashed host does."""
        self.is_reset = True
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if not writer.is_closing() and sock is not None and sock.family == socket.AF_INET:
                with contextlib.suppress(OSError):  # already closed
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    async def close(self) -> None:
        """Closes both connections after all written data is sent."""
        for writer in self.writers:
            _close(writer)
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)


class FaultProxy:
    """`async with FaultProxy(path) as proxy`: clients connect to 127.0.0.1, `proxy.port`.

    `path` is the path of the server's Unix socket, or its port on 127.0.0.1. `delay`: seconds for each chunk of data.
    `answer` may answer a client's data in the server's place; None forwards it. `greetings`: the first data of each
    client, for PostgreSQL the startup message with the application_name.
    """

    def __init__(self, path: str | int) -> None:
        self.path = path
        self.port = free_port()
        self.delay = 0.0
        self.answer: Callable[[bytes], bytes | None] = lambda _request: None
        self.accepted = 0
        self.greetings: list[bytes] = []
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._cut_before: Trigger | None = None
        self._cut_answer_to: Trigger | None = None
        self.cuts = 0

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        while self._tasks:  # a connection may have been accepted meanwhile
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def accept(self) -> None:
        """Accepts connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port, reuse_address=True)

    async def refuse(self) -> None:
        """Refuses connections, and resets the existing ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Resets every connection."""
        for link in self._links:
            link.reset()

    def forget(self, text: bytes) -> None:
        """Silently drops further data on connections whose client has sent `text` at the beginning. New ones work.

        A restarted firewall does this.
        """
        for link in self._links:
            link.drops_data = text in link.first_bytes

    def hang(self) -> None:
        """Stalls all data in both directions, like a black hole. Connections are still accepted."""
        self._flowing.clear()

    def flow(self) -> None:
        """Forwards the stalled and all further data."""
        self._flowing.set()

    def cut_before(self, text: bytes, *, after: bytes = b"") -> None:
        """Resets the next connection on which a client sends `text`, before the server gets it.

        The client must have sent `after` on the same connection since this call.
        """
        self._cut_before = Trigger(text, after)

    def cut_answer_to(self, text: bytes, *, after: bytes = b"") -> None:
        """Forwards the next `text` to the server, and resets the connection when the server answers."""
        self._cut_answer_to = Trigger(text, after)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = Link(writer)
        self._links.add(link)
        if self._server is None:  # it was in the backlog when the listener closed
            link.reset()
        task = asyncio.get_running_loop().create_task(self._serve(reader, link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, link: Link) -> None:
        try:
            with contextlib.suppress(OSError):  # the server refuses the connection
                greeting = await reader.read(_CHUNK_BYTES)
                self.greetings.append(greeting)
                await self._flowing.wait()
                server_reader, server_writer = await self._connect()
                link.add(server_writer)
                server_writer.write(greeting)
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._forward(reader, server_writer, link, from_client=True))
                    both.create_task(self._forward(server_reader, link.writers[0], link, from_client=False))
            await link.close()
        finally:
            link.reset()  # unread data would keep it open
            self._links.discard(link)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, *, from_client: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._flowing.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if from_client and len(link.first_bytes) < _RECORDED_BYTES:
                    link.first_bytes += data[:_RECORDED_BYTES]
                if link.drops_data:
                    continue
                if from_client and self._cut_before is not None and self._cut_before.matches(link, data):
                    self._cut_before = None
                    self._cut(link)
                    return
                if from_client and self._cut_answer_to is not None and self._cut_answer_to.matches(link, data):
                    self._cut_answer_to = None
                    link.reset_on_answer = True
                elif not from_client and link.reset_on_answer:
                    self._cut(link)
                    return
                if writer.is_closing():
                    return
                if from_client and (answer := self.answer(data)) is not None:
                    link.writers[0].write(answer)
                    continue
                writer.write(data)
                await writer.drain()
        _close(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.path, int):
            return await asyncio.open_connection("127.0.0.1", self.path)
        return await asyncio.open_unix_connection(self.path)

    def _cut(self, link: Link) -> None:
        self.cuts += 1
        link.reset()


def _close(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        writer.close()
