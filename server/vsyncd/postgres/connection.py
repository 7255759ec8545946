"""Opens connections to one server, and checks them without a round trip."""

import asyncio
import os
import select
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from vsyncd.config import ConfigError, Settings
from vsyncd.config.connections import replica_conninfo, service_conninfo
from vsyncd.config.endpoints import HostPort
from vsyncd.postgres.error_mapping import NotReplicated
from vsyncd.resilience.tasks import outlast_cancellation
from vsyncd.session_settings import parameters_for, set_up_async

T = TypeVar("T")

# Requests to cancel a statement are repeated at this interval, and the connection is aborted after this time.
_CANCEL_INTERVAL_S: Final = 0.1
_CANCEL_TIMEOUT_S: Final = 5.0
# Pending messages that `is_alive` reads before it stops looking for the connection's end.
_MAX_READS: Final = 4


class Connection(AsyncConnection[TupleRow]):
    """A connection with vsyncd's session settings.

    `response_timeout`: seconds after which a server that does not answer is considered gone, None for no limit.
    """

    response_timeout: float | None = None
    _replication_wait_ended = False

    @classmethod
    async def connect(  # type: ignore[override]  # the pool calls it with the kwargs that it was given
        cls, conninfo: str = "", *, connector: "Connector", **_: object
    ) -> "Connection":
        """Connects for the pool. See Connector.connect_pooled."""
        return await connector.connect_pooled(conninfo)

    @classmethod
    async def connect_directly(cls, conninfo: str, application_name: str, *, prepare: bool) -> "Connection":
        """Connects in autocommit mode. An empty `application_name` leaves the connection string's.

        `prepare`: whether psycopg may prepare frequent statements on the server.
        """
        parameters: dict[str, Any] = parameters_for(conninfo)
        if application_name:
            parameters["application_name"] = application_name
        if not prepare:
            parameters["prepare_threshold"] = None
        connection = await super().connect(conninfo, autocommit=True, **parameters)
        connection.add_notice_handler(connection._on_notice)  # noqa: SLF001  its own
        return connection

    async def run_or_abort(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns the result of `work`, which uses this connection. A cancellation aborts the connection.

        When psycopg is cancelled it asks the server to cancel the statement, and waits up to ten seconds for that. For
        a server that does not answer, the socket is shut down instead, and `work` ends before the socket is closed.
        """
        task = asyncio.get_running_loop().create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                self.abort()
                await asyncio.wait({task})
                task.exception()  # retrieved; the lost connection is expected
            raise

    async def run_or_cancel(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns the result of `work`, which uses this connection. A cancellation also cancels its statement.

        A request to cancel has no effect if it arrives before the server has begun the statement, and psycopg sends
        only one. It is repeated here until the statement ends. After _CANCEL_TIMEOUT_S the connection is aborted.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Another cancellation of the caller must not keep the request from the server.
            await outlast_cancellation(loop.create_task(self._cancel(task)))
            raise

    async def _cancel(self, task: "asyncio.Task[Any]") -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _CANCEL_TIMEOUT_S
        while not task.done() and loop.time() < give_up:
            with suppress(psycopg.Error):
                await self.cancel_safe(timeout=_CANCEL_TIMEOUT_S)
            await asyncio.wait({task}, timeout=_CANCEL_INTERVAL_S)
        if not task.done():
            self.abort()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # retrieved; the cancelled statement is expected

    async def wait(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  psycopg's own types
        """Waits for the server, at most for `response_timeout`. psycopg calls it for everything that it sends."""
        if self.response_timeout is None:
            return await super().wait(*args, **kwargs)
        timer = asyncio.get_running_loop().call_later(self.response_timeout, self.abort)
        try:
            return await super().wait(*args, **kwargs)
        finally:
            timer.cancel()

    def abort(self) -> None:
        """Shuts the socket down. Pending operations fail at once, and nothing is sent to the server."""
        if self.closed:
            return
        with (
            socket.socket(fileno=os.dup(self.fileno())) as duplicate,
            suppress(OSError),  # the server has already closed it
        ):
            duplicate.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Wraps a statement that commits. Raises NotReplicated if the wait for the synchronous standby was interrupted.

        The server then reports success with a warning (PostgreSQL's syncrep.c): a cancellation or timeout ends the
        wait, but not the transaction.
        """
        self._replication_wait_ended = False
        yield
        if self._replication_wait_ended:
            raise NotReplicated("the commit was not replicated yet")

    def _on_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        # The text may be translated. None of our statements raises another warning of these classes when it commits.
        if notice.severity_nonlocalized == "WARNING" and notice.sqlstate in {"01000", "57P01"}:
            self._replication_wait_ended = True

    def is_alive(self) -> bool:
        """Whether the server has not closed the connection. Reads what has arrived and sends nothing.

        A frozen or unreachable server is not detected.
        """
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN | select.POLLHUP)
        for _ in range(_MAX_READS):
            if not poll.poll(0):
                return True
            try:
                self.pgconn.consume_input()
            except psycopg.OperationalError:
                return False
        return True


class Connector:
    """Opens connections with vsyncd's session settings to the server at `hosts`.

    Several addresses are tried in turn until one accepts writes; a replica has one address. Connections for the pool
    call `allow_pooled` before, and `on_connected` or `on_failed` after the attempt. A pooler may drop the session
    settings, so the timeouts among them are only a second line of defence.
    """

    def __init__(self, settings: Settings, hosts: Sequence[HostPort], *, replica: bool = False) -> None:
        self._settings = settings
        self._hosts = tuple(hosts)
        self._replica = replica
        self._session_settings = {
            "statement_timeout": f"{settings.db_statement_timeout * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{settings.db_statement_timeout * 2000:.0f}",
        }
        # libpq's connect_timeout applies to each host. Setting up the session takes one more round trip.
        self._timeout = settings.db_connect_timeout * len(hosts) + settings.db_ping_timeout
        self._attempts: set[asyncio.Timeout] = set()
        self._closed = False
        self.allow_pooled: Callable[[], bool] = lambda: True
        self.on_connected: Callable[[], None] = lambda: None
        self.on_failed: Callable[[psycopg.Error], None] = lambda _error: None

    async def connect_pooled(self, conninfo: str) -> Connection:
        """Connects for the pool. Raises psycopg.OperationalError, at once if not allowed or if closed."""
        if not self.allow_pooled():
            raise psycopg.OperationalError("the circuit breaker is open")
        try:
            connection = await self._connect(conninfo, "")
        except psycopg.Error as error:
            self.on_failed(error)
            raise
        self.on_connected()
        return connection

    def conninfo(self) -> str:
        """Returns the server's connection string, with the current content of the password file.

        Raises psycopg.OperationalError if the password file cannot be read.
        """
        try:
            if self._replica:
                return replica_conninfo(self._settings, *self._hosts)
            return service_conninfo(self._settings, hosts=self._hosts)
        except ConfigError as error:
            failure = psycopg.OperationalError(str(error))
            self.on_failed(failure)
            raise failure from error

    async def connect(self, application_name: str) -> Connection:
        """Connects outside the pool, also while the circuit breaker is open. Raises psycopg.Error."""
        return await self._connect(self.conninfo(), application_name)

    def close(self) -> None:
        """Aborts the attempts in progress and refuses further ones."""
        self._closed = True
        for timeout in self._attempts:
            if not timeout.expired():
                timeout.reschedule(0)  # in the past: expires at once

    async def _connect(self, conninfo: str, application_name: str) -> Connection:
        if self._closed:
            raise psycopg.OperationalError("the connector is closed")
        connection: Connection | None = None
        timeout = asyncio.timeout(self._timeout)
        try:
            async with timeout:
                self._attempts.add(timeout)
                try:
                    connection = await Connection.connect_directly(
                        conninfo, application_name, prepare=self._settings.db_prepare_statements
                    )
                    await connection.run_or_abort(set_up_async(connection, self._session_settings))
                finally:
                    self._attempts.discard(timeout)
        except BaseException as error:
            if connection is not None:
                await connection.close()
            if isinstance(error, TimeoutError):
                raise psycopg.errors.ConnectionTimeout("connecting to the server timed out") from error
            raise
        # The next attempt tries this address first: after a failover each unreachable address before it could take
        # DB_CONNECT_TIMEOUT for every new connection.
        host = HostPort(connection.info.host, connection.info.port)
        if host in self._hosts:
            self._hosts = tuple(sorted(self._hosts, key=lambda other: other != host))
        return connection
