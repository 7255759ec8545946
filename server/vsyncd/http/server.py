"""A small HTTP/1.1 server for probes and metrics, which answers GET and HEAD.

h11 implements the protocol. Reading a request, sending a response and waiting for the next request have timeouts, so
that a slow or faulty client costs only one connection for a few seconds. TLS and HTTP/2 are left to a proxy.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
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

_MAX_HEAD_BYTES: Final = 16 * 1024  # the request line and the headers
_MAX_BODY_BYTES: Final = 64 * 1024  # a body is read, so that the response arrives, and discarded
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Response:
    status: HTTPStatus
    body: bytes
    content_type: str = JSON
    headers: Sequence[tuple[str, str]] = ()


# Takes the headers of a request, with names in lower case.
Route = Callable[[Mapping[str, str]], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Timeouts in seconds for receiving a request, sending a response and waiting for the next request, and the maximum
    number of connections. A new connection replaces the one that has been idle longest."""

    request: float = 5.0
    response: float = 5.0
    idle: float = 60.0
    connections: int = 128


class _RequestError(Exception):
    """The request is invalid. The connection ends after this response."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.response = _status_response(status)


class HttpServer:
    def __init__(self, routes: Mapping[str, Route], *, limits: Limits | None = None) -> None:
        self._routes = routes
        self._limits = limits or Limits()
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], HttpConnection] = {}

    async def start(self, endpoint: HostPort) -> int:
        """Listens on every address of the endpoint and returns the port. Raises OSError."""
        sockets = await asyncio.to_thread(listening_sockets, endpoint.host, endpoint.port)
        for each in sockets:
            self._servers.append(await asyncio.start_server(self._accept, sock=each, limit=_MAX_HEAD_BYTES))
        return int(sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Closes all connections at once."""
        while self._servers:
            self._servers.pop().close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._limits.connections and not self._close_idlest():
            writer.transport.abort()
            return
        connection = HttpConnection(reader, writer, self._respond, self._limits)
        # An empty context: a connection belongs to no call.
        task = asyncio.get_running_loop().create_task(connection.serve(), context=Context())
        self._connections[task] = connection
        task.add_done_callback(lambda ended: self._connections.pop(ended, None))

    def _close_idlest(self) -> bool:
        """Closes the connection that has been idle longest, or else has been sending its request longest.

        Probes must not be blocked by clients that hold connections. Returns whether a connection was closed.
        """
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

    async def _respond(self, request: h11.Request) -> Response:
        try:
            path = urlsplit(request.target.decode("ascii")).path
        except ValueError:
            return _status_response(HTTPStatus.BAD_REQUEST)
        route = self._routes.get(path)
        if route is None:
            return _status_response(HTTPStatus.NOT_FOUND)
        if request.method not in {b"GET", b"HEAD"}:
            return _status_response(HTTPStatus.METHOD_NOT_ALLOWED)
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers}
        try:
            return await route(headers)
        except Exception as error:  # noqa: BLE001  any error of a route, as in transport.error_mapping
            _log.error("internal error", exc_info=error, path=path)
            return _status_response(HTTPStatus.INTERNAL_SERVER_ERROR)


class HttpConnection:
    """The connection of a client. Serves its requests in turn."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        respond: Callable[[h11.Request], Awaitable[Response]],
        limits: Limits,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._respond = respond
        self._limits = limits
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._timeout = limits.request  # for the first request
        self._is_head = False
        self.is_idle = True
        # When the wait for the client began; None while the server prepares or sends a response.
        self.held_since: float | None = time.monotonic()

    async def serve(self) -> None:
        """Serves requests until either side closes the connection."""
        try:
            while await self._serve_one():
                self._protocol.start_next_cycle()
                self._timeout = self._limits.idle
                # Lets other connections run: pipelined requests are served without waiting.
                await asyncio.sleep(0)
            async with asyncio.timeout(self._limits.response):
                self._writer.close()
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass  # the client is gone or receives nothing
        finally:
            self._writer.transport.abort()

    async def _serve_one(self) -> bool:
        """Serves one request. Returns whether another one may follow."""
        try:
            if not await self._wait_for_request():
                return False
            request = await self._read_request()
        except _RequestError as bad:
            self.held_since = None
            await self._send(bad.response, last=True)
            return False
        self.held_since = None
        await self._send(await self._respond(request))
        return self._protocol.our_state is h11.DONE

    async def _wait_for_request(self) -> bool:
        """Waits for the first bytes of a request. Returns False if none arrive in time."""
        self.held_since = time.monotonic()
        if self._protocol.trailing_data[0]:  # received with the previous request
            return True
        self.is_idle = True
        try:
            async with asyncio.timeout(self._timeout):
                data = await self._reader.read(_MAX_HEAD_BYTES)
        except TimeoutError:
            return False
        self.is_idle = self._is_head = False
        self.held_since = time.monotonic()
        if data:
            self._protocol.receive_data(data)
        return bool(data)

    async def _read_request(self) -> h11.Request:
        """Returns the request, without its body. Raises _RequestError."""
        try:
            async with asyncio.timeout(self._limits.request):
                request = await self._read_event()
                if not isinstance(request, h11.Request):
                    raise _RequestError(HTTPStatus.BAD_REQUEST)
                if not request.http_version.startswith(b"1."):
                    raise _RequestError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
                self._is_head = request.method == b"HEAD"
                _check_framing(request)
                size = 0
                while isinstance(event := await self._read_event(), h11.Data):
                    size += len(event.data)
                    if size > _MAX_BODY_BYTES:
                        raise _RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        except TimeoutError as error:
            raise _RequestError(HTTPStatus.REQUEST_TIMEOUT) from error
        except h11.RemoteProtocolError as error:
            raise _RequestError(HTTPStatus(error.error_status_hint)) from error
        return request

    async def _read_event(self) -> h11.Event:
        while not isinstance(event := self._protocol.next_event(), h11.Event):
            if self._protocol.they_are_waiting_for_100_continue:
                raise _RequestError(HTTPStatus.EXPECTATION_FAILED)
            self._protocol.receive_data(await self._reader.read(_MAX_HEAD_BYTES))
        return event

    async def _send(self, response: Response, *, last: bool = False) -> None:
        headers = [
            ("date", formatdate(usegmt=True)),
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            ("cache-control", "no-store"),
            *response.headers,
        ]
        if response.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("allow", "GET, HEAD"))
        if last:
            headers.append(("connection", "close"))
        head = h11.Response(status_code=response.status, reason=response.status.phrase, headers=headers)
        data = self._protocol.send(head) or b""
        if not self._is_head:
            data += self._protocol.send(h11.Data(data=response.body)) or b""
        data += self._protocol.send(h11.EndOfMessage()) or b""
        async with asyncio.timeout(self._limits.response):
            self._writer.write(data)
            await self._writer.drain()


def _check_framing(request: h11.Request) -> None:
    """Refuses a request whose end a proxy may see elsewhere (request smuggling). Raises _RequestError.

    h11 ignores Content-Length if there is a Transfer-Encoding (RFC 9112, section 6.3 permits refusing such a request),
    and HTTP/1.0 has no Transfer-Encoding (section 6.1).
    """
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version == b"1.0"):
        raise _RequestError(HTTPStatus.BAD_REQUEST)


def _status_response(status: HTTPStatus) -> Response:
    return Response(status, b'{"message": "%s"}\n' % status.phrase.encode())
