"""A small HTTP/1.1 server for probes and metrics: GET and HEAD of known paths, nothing else.

h11 reads and writes the protocol; the waits are ours, each of them bounded: for a request, for its answer to be taken,
and between two requests of a connection. A client that is slow, silent or out of its mind costs a connection for a few
seconds, and no one else anything. TLS and HTTP/2 are a proxy's business.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import h11

from vsyncd.config.endpoints import HostPort
from vsyncd.core.listening import listening_sockets
from vsyncd.observability.logs import logger

JSON: Final = "application/json"

_MAX_HEAD: Final = 16 * 1024  # bytes of a request line with its headers
_MAX_BODY: Final = 64 * 1024  # bytes of a body, which is read so that the answer arrives, and thrown away
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, and a body."""

    status: HTTPStatus
    body: bytes
    content_type: str = JSON


# Is given the request's headers, names in lower case.
Route = Callable[[Mapping[str, str]], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds for a request to arrive, for its answer to be taken, and from one request to the next; connections at a
    time, past which the one that has been idle for longest gives way."""

    request: float = 5.0
    answer: float = 5.0
    idle: float = 60.0
    connections: int = 128


class _RequestError(Exception):
    """What was sent is not a request that can be answered; the connection ends with this answer."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.answer = _plain(status)


class HttpServer:
    """Serves `routes`, by path."""

    def __init__(self, routes: Mapping[str, Route], *, limits: Limits | None = None) -> None:
        self._routes = routes
        self._limits = limits or Limits()
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], Connection] = {}

    async def start(self, endpoint: HostPort) -> int:
        """Listens on every address of the endpoint and returns the port. Raises OSError."""
        sockets = await asyncio.to_thread(listening_sockets, endpoint.host, endpoint.port)
        for each in sockets:
            self._servers.append(await asyncio.start_server(self._accept, sock=each, limit=_MAX_HEAD))
        return int(sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close everything, whatever is under way."""
        while self._servers:
            self._servers.pop().close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._limits.connections and not self._make_room():
            writer.transport.abort()
            return
        connection = Connection(reader, writer, self._answer, self._limits)
        # In a context of its own: a connection is nobody's call.
        task = asyncio.get_running_loop().create_task(connection.serve(), context=Context())
        self._connections[task] = connection
        task.add_done_callback(lambda ended: self._connections.pop(ended, None))

    def _make_room(self) -> bool:
        """End the connection that has been idle for longest, or else the one whose request has not ended for longest:
        probes must get through whoever else holds on."""
        held = [
            (not connection.is_idle, connection.held_since, task)
            for task, connection in self._connections.items()
            if connection.held_since is not None
        ]
        if not held:
            return False
        task = min(held, key=lambda each: each[:2])[2]
        del self._connections[task]
        task.cancel()
        return True

    async def _answer(self, request: h11.Request) -> Answer:
        try:
            path = urlsplit(request.target.decode("ascii")).path
        except ValueError:
            return _plain(HTTPStatus.BAD_REQUEST)
        route = self._routes.get(path)
        if route is None:
            return _plain(HTTPStatus.NOT_FOUND)
        if request.method not in {b"GET", b"HEAD"}:
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers}
        try:
            return await route(headers)
        except Exception as error:  # noqa: BLE001  what any error of a route becomes, as in error_mapping for gRPC
            _log.error("internal error", exc_info=error, path=path)
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


class Connection:
    """One client's requests, one after the other."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Callable[[h11.Request], Awaitable[Answer]],
        limits: Limits,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._limits = limits
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._patience = limits.request  # for the first request
        self._is_head = False
        self.is_idle = True
        # Since when its client has had the word, in a request or before it; None while it is answered.
        self.held_since: float | None = time.monotonic()

    async def serve(self) -> None:
        """Until either side has had enough."""
        try:
            while await self._serve_one():
                self._protocol.start_next_cycle()
                self._patience = self._limits.idle
                # Who sends many requests at once is answered from what is here, without any wait: others come between.
                await asyncio.sleep(0)
            async with asyncio.timeout(self._limits.answer):
                self._writer.close()
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass  # the client is gone, or takes nothing: there is nobody to tell
        finally:
            self._writer.transport.abort()

    async def _serve_one(self) -> bool:
        """Answer a request; whether another one may follow."""
        try:
            if not await self._begins():
                return False
            request = await self._request()
        except _RequestError as bad:
            self.held_since = None
            await self._write(bad.answer, last=True)
            return False
        self.held_since = None
        await self._write(await self._answer(request))
        return self._protocol.our_state is h11.DONE

    async def _begins(self) -> bool:
        """Wait for a request's first bytes; False when none come in time."""
        self.held_since = time.monotonic()
        if self._protocol.trailing_data[0]:  # they came together with the request before
            return True
        self.is_idle = True
        try:
            async with asyncio.timeout(self._patience):
                data = await self._reader.read(_MAX_HEAD)
        except TimeoutError:
            return False
        self.is_idle = self._is_head = False
        self.held_since = time.monotonic()
        if data:
            self._protocol.receive_data(data)
        return bool(data)

    async def _request(self) -> h11.Request:
        """The request that has begun, its body thrown away. Raises _RequestError."""
        try:
            async with asyncio.timeout(self._limits.request):
                request = await self._event()
                if not isinstance(request, h11.Request):
                    raise _RequestError(HTTPStatus.BAD_REQUEST)
                if not request.http_version.startswith(b"1."):
                    raise _RequestError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
                self._is_head = request.method == b"HEAD"
                size = 0
                while isinstance(event := await self._event(), h11.Data):
                    size += len(event.data)
                    if size > _MAX_BODY:
                        raise _RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        except TimeoutError as error:
            raise _RequestError(HTTPStatus.REQUEST_TIMEOUT) from error
        except h11.RemoteProtocolError as error:
            raise _RequestError(HTTPStatus(error.error_status_hint)) from error
        return request

    async def _event(self) -> h11.Event:
        while not isinstance(event := self._protocol.next_event(), h11.Event):
            if self._protocol.they_are_waiting_for_100_continue:
                raise _RequestError(HTTPStatus.EXPECTATION_FAILED)
            self._protocol.receive_data(await self._reader.read(_MAX_HEAD))
        return event

    async def _write(self, answer: Answer, *, last: bool = False) -> None:
        headers = [
            ("date", formatdate(usegmt=True)),
            ("content-type", answer.content_type),
            ("content-length", str(len(answer.body))),
            ("cache-control", "no-store"),
        ]
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("allow", "GET, HEAD"))
        if last:
            headers.append(("connection", "close"))
        response = h11.Response(status_code=answer.status, reason=answer.status.phrase, headers=headers)
        data = self._protocol.send(response) or b""
        if not self._is_head:
            data += self._protocol.send(h11.Data(data=answer.body)) or b""
        data += self._protocol.send(h11.EndOfMessage()) or b""
        async with asyncio.timeout(self._limits.answer):
            self._writer.write(data)
            await self._writer.drain()


def _plain(status: HTTPStatus) -> Answer:
    """An answer that is its status."""
    return Answer(status, b'{"message": "%s"}\n' % status.phrase.encode())
