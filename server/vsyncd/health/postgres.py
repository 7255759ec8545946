"""PostgreSQL, asked over a connection of its own: a pool that is exhausted must not look like a database that is down,
and a check must not take a connection from those who work."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from vsyncd.config import ConfigError, Settings
from vsyncd.health.records import Details, Finding, Kind, PoolInfo, Status
from vsyncd.maintenance.watch import PartitionWatch
from vsyncd.migrate import behind, fetch_current_versions
from vsyncd.postgres.causes import cause_of
from vsyncd.postgres.target import PRIMARY, Target

_ASK: Final = b"""
    SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'
"""
_WRITER: Final = "primary"
_STANDBY: Final = "standby"
_MOST: Final = 2**31 - 1  # an int32, which the contract counts in


class PostgresChecker:
    """The database that the settings name.

    `pool_stats` gives what psycopg_pool counts. `schema` are the versions that each migration set must have for calls
    to be served; a database that lacks them is unhealthy, since it can serve nothing.
    """

    kind = Kind.DATABASE

    def __init__(
        self,
        settings: Settings,
        *,
        pool_stats: Callable[[], Mapping[str, int]],
        schema: Mapping[str, int],
        name: str = "postgresql-primary",
        is_critical: bool = True,
        target: Target | None = None,
        partitions: PartitionWatch | None = None,
        on_schema: Callable[[bool], None] | None = None,
        metadata: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`target` is what calls use of the server; None: its breaker and its lag are not told of. `partitions` says
        how far those of its tables reach. `on_schema` hears at each check whether it has the versions in `schema`.
        `metadata` is what others know of the database."""
        self.name = name
        self._target = target
        self._partitions = partitions
        self._on_schema = on_schema
        self._further = metadata
        self._hosts = target.hosts if target else settings.database_hosts
        self._is_replica = target is not None and target.name != PRIMARY
        self.is_critical = is_critical
        self._settings = settings
        self._pool_stats = pool_stats
        self._schema = schema
        self._connection: AsyncConnection[Any] | None = None
        self._version = ""
        self._role = ""

    async def check(self) -> Finding:
        """Connect if need be, and ask. See DependencyChecker."""
        asking = asyncio.create_task(self._ask())
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            # psycopg would now ask the server to cancel the statement, and wait for its answer up to ten seconds.
            # A server that does not answer is not worth asking: the socket goes, and psycopg sees a lost connection.
            if not self._cut():
                asking.cancel()  # still connecting: nothing was asked yet
            await asyncio.wait({asking})
            raise

    def details(self) -> Details:
        """See DependencyChecker."""
        first = self._hosts[0]
        hosts = dict.fromkeys(_shown(host.host) for host in self._hosts)
        return Details(
            hostname=",".join(hosts),
            port=first.port,
            protocol="postgresql",
            database_name=self._settings.db_name,
            schema_name=self._settings.db_schema,
            version=self._version,
            pool=pool_info(self._pool_stats()),
            metadata=self._metadata(),
        )

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    async def _ask(self) -> Finding:
        try:
            connection = await self._connected()
            cursor = await connection.execute(_ASK)
            version, in_recovery, read_only = await cursor.fetchone() or ("", False, False)
            lacking = behind(await fetch_current_versions(connection, self._settings.db_schema), self._schema)
        except psycopg.Error as error:
            await self.close()
            cause = cause_of(error)
            return Finding(status=Status.UNHEALTHY, message=f"cannot be used: {cause}", error=cause)
        except ConfigError:  # DB_PASSWORD_FILE went away
            cause = "password file cannot be read"
            return Finding(status=Status.UNHEALTHY, message=f"cannot be used: {cause}", error=cause)
        # "18.4 (Debian 18.4-1)" is the packager's way of saying 18.4.
        self._version = version.split(" ", 1)[0]
        self._role = _STANDBY if in_recovery else _WRITER
        if (in_recovery or read_only) and not self._is_replica:
            await self.close()  # what the address leads to by now, and takes writes, only a new session tells
        if self._on_schema is not None:
            self._on_schema(not lacking)
        if lacking:
            return Finding(
                status=Status.UNHEALTHY,
                message="the schema is older than this server needs: migrate it",
                error="schema out of date",
            )
        return self._judge(read_only=in_recovery or read_only)

    def _judge(self, *, read_only: bool) -> Finding:
        """Of a server that answers, and has the schema."""
        if read_only and not self._is_replica:
            return Finding(status=Status.DEGRADED, message="read-only: the server takes no writes")
        if self._target is not None:
            if not self._target.breaker.closed:
                message = f"it answers, and its circuit breaker is {self._target.breaker.state}"
                return Finding(status=Status.DEGRADED, message=message)
            if (seen := self._target.seen) is not None and seen.lag.seconds > self._settings.db_replica_max_lag:
                limit = self._settings.db_replica_max_lag
                return Finding(status=Status.DEGRADED, message=f"its lag is over {limit:g} s: it is not read from")
        if self._partitions is not None and self._partitions.is_short:
            message = f"its partitions end on {self._partitions.until_text[:10]}: run vsyncd maintain"
            return Finding(status=Status.DEGRADED, message=message)
        return Finding(status=Status.HEALTHY, message="it answers")

    def _metadata(self) -> dict[str, str]:
        metadata = {**self._further(), **({"server_role": self._role} if self._role else {})}
        if self._partitions is not None and self._partitions.until_text:
            metadata["partitions_until"] = self._partitions.until_text
        if self._target is None:
            return metadata
        breaker = self._target.breaker
        metadata["circuit_breaker"] = breaker.state
        metadata["circuit_breaker_trips"] = str(breaker.trips)
        metadata["circuit_breaker_since"] = breaker.since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._is_replica and (seen := self._target.seen) is not None:
            metadata["replication_lag_ms"] = f"{seen.lag.seconds * 1000:.0f}"
            metadata["replication_lag_bytes"] = str(seen.lag.bytes)
        return metadata

    async def _connected(self) -> AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = await AsyncConnection.connect(
                self._settings.database_conninfo(hosts=self._hosts, application_name="vsyncd health"),
                autocommit=True,
                prepare_threshold=None,  # poolers
            )
        return self._connection

    def _cut(self) -> bool:
        """Whether there was a connection to cut off. What waits for it then ends at once."""
        if self._connection is None or self._connection.closed:
            return False
        with (
            socket.socket(fileno=os.dup(self._connection.fileno())) as twin,
            contextlib.suppress(OSError),  # the other side was faster
        ):
            twin.shutdown(socket.SHUT_RDWR)
        return True


def pool_info(stats: Mapping[str, int]) -> PoolInfo:
    """What psycopg_pool counts, in the contract's words."""
    available = stats.get("pool_available", 0)
    return PoolInfo(
        max_connections=stats.get("pool_max", 0),
        active_connections=max(0, stats.get("pool_size", 0) - available),
        idle_connections=available,
        wait_count=stats.get("requests_waiting", 0),
        wait_duration_ms=min(stats.get("requests_wait_ms", 0), _MOST),
    )


def _shown(host: str) -> str:
    """A socket's folder would tell of this machine's file system; a socket is local, and that is enough."""
    return "localhost" if host.startswith("/") else host
