"""Making connections to one server, and looking whether one is still good, without asking the server."""

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from vsyncd.config import ConfigError, Settings
from vsyncd.config.connections import replica_conninfo, service_conninfo
from vsyncd.config.endpoints import HostPort
from vsyncd.postgres.error_mapping import NotReplicated
from vsyncd.session_settings import parameters_for, set_up_async

T = TypeVar("T")

# Reads of the socket before a connection is given up that only ever tells news: a last message, and its end.
_READS = 4


class Connection(AsyncConnection[TupleRow]):
    """A connection of ours. `born`: when it was made, on the monotonic clock. `patience`: the most seconds that an
    answer is waited for, None for no limit; a server that takes longer is taken for one that is gone."""

    born = 0.0
    patience: float | None = None
    _gave_up_waiting = False

    @classmethod
    async def connect(  # type: ignore[override]  # the pool calls it, with the kwargs it was given
        cls, conninfo: str = "", *, connector: "Connector", **_: object
    ) -> Self:
        """As the connector does it."""
        return await connector.make(cls, conninfo)

    @classmethod
    async def plain(cls, conninfo: str, name: str, *, prepare: bool) -> Self:
        """As psycopg does it, in autocommit; `name` is the application's, empty for the connection string's.

        `prepare`: statements that are executed often are prepared on the server.
        """
        parameters: dict[str, Any] = parameters_for(conninfo)
        if name:
            parameters["application_name"] = name
        if not prepare:
            parameters["prepare_threshold"] = None
        connection = await super().connect(conninfo, autocommit=True, **parameters)
        connection.add_notice_handler(connection.noticed)
        return connection

    async def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which asks over this connection; when it is cancelled, the connection is lost.

        psycopg, cancelled, asks the server to cancel, and waits up to ten seconds for that. One that hangs is not
        asked: the socket goes, and `work` ends, before anybody closes what it reads from.
        """
        asking = asyncio.get_running_loop().create_task(work)
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            if not asking.done():
                self.cut()
                await asyncio.wait({asking})
                asking.exception()  # it was lost: we know
            raise

    async def wait(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  what psycopg gives and gets
        """psycopg's: whatever waits for the server comes by here."""
        if self.patience is None:
            return await super().wait(*args, **kwargs)
        timer = asyncio.get_running_loop().call_later(self.patience, self.cut)
        try:
            return await super().wait(*args, **kwargs)
        finally:
            timer.cancel()

    def cut(self) -> None:
        """Lose the connection. Whatever waits for it ends at once, and the server is not asked."""
        if self.closed:
            return
        with (
            socket.socket(fileno=os.dup(self.fileno())) as twin,
            suppress(OSError),  # the other side was faster
        ):
            twin.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Around what commits. Raises NotReplicated when the server gave up waiting for its synchronous standby.

        It says so in a warning, and reports success all the same (PostgreSQL's syncrep.c): a cancel or a timeout ends
        the wait, and not the transaction.
        """
        self._gave_up_waiting = False
        yield
        if self._gave_up_waiting:
            raise NotReplicated("the commit was not replicated yet")

    def noticed(self, notice: psycopg.errors.Diagnostic) -> None:
        """What the server says beside its answers."""
        # The text may be translated; no statement of ours gives another warning of these classes when it commits.
        if notice.severity_nonlocalized == "WARNING" and notice.sqlstate in {"01000", "57P01"}:
            self._gave_up_waiting = True

    def alive(self) -> bool:
        """Whether the server has not ended it: what it said in the meantime is read, nothing is sent.

        A server that was frozen, or cut off, is not found out this way.
        """
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN | select.POLLHUP)
        for _ in range(_READS):
            if not poll.poll(0):
                return True
            try:
                self.pgconn.consume_input()
            except psycopg.OperationalError:
                return False
        return True


C = TypeVar("C", bound=Connection)


class Connector:
    """Makes connections to one server with vsyncd's session settings.

    `allowed` is asked before, `on_made` and `on_failed` are told after. A pooler may drop the session settings: the
    timeouts among them are a second fence, not the first.
    """

    def __init__(
        self,
        conninfo: Callable[[Sequence[HostPort]], str],
        hosts: Sequence[HostPort],
        *,
        statement_timeout: float,
        seconds: float,
        prepare: bool = True,
    ) -> None:
        """`conninfo` to its addresses is asked each time: a password in a file may have changed. `statement_timeout` of
        the server, the seconds that making a connection may take in all, and whether statements may be prepared over
        it."""
        self._conninfo = conninfo
        self._hosts = tuple(hosts)
        self._settings = {
            "statement_timeout": f"{statement_timeout * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{statement_timeout * 2000:.0f}",
        }
        self._seconds = seconds
        self._prepare = prepare
        self._under_way: set[asyncio.Timeout] = set()
        self._closed = False
        self.allowed: Callable[[], bool] = lambda: True
        self.on_made: Callable[[], None] = lambda: None
        self.on_failed: Callable[[psycopg.Error], None] = lambda _error: None

    @classmethod
    def of(cls, settings: Settings, hosts: Sequence[HostPort], *, replica: bool = False) -> Self:
        """To the server at these addresses, tried in turn until one takes writes; a replica has one address."""
        return cls(
            lambda hosts: replica_conninfo(settings, *hosts) if replica else service_conninfo(settings, hosts=hosts),
            hosts,
            statement_timeout=settings.db_statement_timeout,
            # libpq's connect_timeout is for each host; what follows is a round trip.
            seconds=settings.db_connect_timeout * len(hosts) + settings.db_ping_timeout,
            prepare=settings.db_prepare_statements,
        )

    async def make(self, cls: type[C], conninfo: str) -> C:
        """For the pool. Raises psycopg.OperationalError, at once while it is not allowed and when it is closed."""
        if not self.allowed():
            raise psycopg.OperationalError("the circuit breaker is open")
        try:
            connection = await self._make(cls, conninfo, "")
        except psycopg.Error as error:
            self.on_failed(error)
            raise
        self.on_made()
        return connection

    def conninfo(self) -> str:
        """The server's connection string. Raises psycopg.OperationalError when the password file cannot be read."""
        try:
            return self._conninfo(self._hosts)
        except ConfigError as error:
            failure = psycopg.OperationalError(str(error))
            self.on_failed(failure)
            raise failure from error

    async def open(self, name: str) -> Connection:
        """A connection beside the pool, whatever is allowed, under this application_name. Raises psycopg.Error."""
        return await self._make(Connection, self.conninfo(), name)

    def close(self) -> None:
        """Make no more connections, and give up those that are being made: whoever waits for them need not wait on."""
        self._closed = True
        for limit in self._under_way:
            if not limit.expired():
                limit.reschedule(0)  # long ago

    async def _make(self, cls: type[C], conninfo: str, name: str) -> C:
        if self._closed:
            raise psycopg.OperationalError("no more connections are made")
        connection: C | None = None
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                self._under_way.add(limit)
                try:
                    connection = await cls.plain(conninfo, name, prepare=self._prepare)
                    await connection.ask(set_up_async(connection, self._settings))
                finally:
                    self._under_way.discard(limit)
        except BaseException as error:
            if connection is not None:
                await connection.close()
            if isinstance(error, TimeoutError):
                raise psycopg.errors.ConnectionTimeout("the server did not let us in in time") from error
            raise
        connection.born = time.monotonic()
        self._prefer(HostPort(connection.info.host, connection.info.port))
        return connection

    def _prefer(self, host: HostPort) -> None:
        """Try the one that let us in first from now on: after a failover each of those before it may take
        DB_CONNECT_TIMEOUT, for every new connection."""
        if host in self._hosts:
            self._hosts = tuple(sorted(self._hosts, key=lambda other: other != host))
