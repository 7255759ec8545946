"""A proxy that does to the network what networks do, between vsyncd and PostgreSQL or a client and vsyncd.

It listens on TCP and leads to a server's Unix socket or port. What is under way and what comes later can be refused,
cut, hung, slowed, or lost without a word; a connection can also be cut when certain bytes pass, before or after they
do.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Self

_CHUNK = 65536
_FIRST = 4096


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


class Link:
    """A client's connection, and the server's when it is there."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]
        self.lost = False
        self.first = b""  # of what the client said
        self.silent = False  # what comes is lost, and nobody is told
        self.armed = False  # what the server says next is lost with it

    def add(self, server: asyncio.StreamWriter) -> None:
        """The server's end."""
        self.writers.append(server)
        if self.lost:
            self.reset()

    def reset(self) -> None:
        """As a host does that is there no more."""
        self.lost = True
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if not writer.is_closing() and sock is not None and sock.family == socket.AF_INET:
                with contextlib.suppress(OSError):  # it went by itself
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    async def close(self) -> None:
        """In good order, when all that was written is sent."""
        for writer in self.writers:
            _close(writer)
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)


class FaultProxy:
    """`async with FaultProxy(path) as proxy`: clients connect to 127.0.0.1, `proxy.port`.

    `path`: of the server's Unix socket, or its port on 127.0.0.1.
    """

    def __init__(self, path: str | int) -> None:
        self.path = path
        self.port = 0
        self.delay = 0.0
        # Answers what a client says in the server's place, or None: then it is passed on.
        self.answer: Callable[[bytes], bytes | None] = lambda _said: None
        self.accepted = 0
        # What each client said first: PostgreSQL's startup message, with the application's name.
        self.greetings: list[bytes] = []
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
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
        while self._tasks:  # one more may have been accepted meanwhile
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def accept(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Take no connections, and cut those that there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        for link in self._links:
            link.reset()

    def forget(self, said: bytes) -> None:
        """Lose without a word what comes over every connection in whose beginning a client said this; new ones work.

        As a firewall does that was restarted.
        """
        for link in self._links:
            link.silent = said in link.first

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

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = Link(writer)
        self._links.add(link)
        if self._server is None:  # it was in the queue when we ceased to listen
            link.reset()
        task = asyncio.get_running_loop().create_task(self._lead(reader, link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _lead(self, reader: asyncio.StreamReader, link: Link) -> None:
        try:
            with contextlib.suppress(OSError):  # the server refuses, and so do we
                greeting = await reader.read(_CHUNK)
                self.greetings.append(greeting)
                await self._flowing.wait()
                server_reader, server_writer = await self._connect()
                link.add(server_writer)
                server_writer.write(greeting)
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass_on(reader, server_writer, link, from_client=True))
                    both.create_task(self._pass_on(server_reader, link.writers[0], link, from_client=False))
            await link.close()
        finally:
            link.reset()  # what nobody takes would keep it open
            self._links.discard(link)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, *, from_client: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if from_client and len(link.first) < _FIRST:
                    link.first += data[:_FIRST]
                if link.silent:
                    continue
                if from_client and self._cut_before is not None and self._cut_before.given(link, data):
                    self._cut_before = None
                    self._cut(link)
                    return
                if from_client and self._cut_answer_to is not None and self._cut_answer_to.given(link, data):
                    self._cut_answer_to = None
                    link.armed = True
                elif not from_client and link.armed:
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
