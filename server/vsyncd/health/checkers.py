"""Checks PostgreSQL, Redis, the gRPC services on which this one depends, and the state of access control."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import grpc
import psycopg
from grpc_health.v1 import health_pb2 as standard_pb
from redis.exceptions import TimeoutError as RedisTimeout
from vsync.health.v1 import health_pb2 as pb

from vsyncd.cache.operations import CacheError
from vsyncd.cache.wiring import DEPENDENCY, CacheServices
from vsyncd.config import ConfigError, Settings
from vsyncd.config.endpoints import GrpcDependency
from vsyncd.health.status import Finding, Status
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.database_server import PRIMARY, DatabaseServer
from vsyncd.postgres.error_mapping import TIMEOUT, error_category
from vsyncd.resilience.circuit_breaker import CLOSED
from vsyncd.resilience.tasks import cancel_and_wait

_STATE_QUERY: Final = b"""
    SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'
"""
_WRITER: Final = "primary"
_STANDBY: Final = "standby"
_NO_PASSWORD: Final = "password file cannot be read"  # noqa: S105  a cause, not a password
_MAX_INT32: Final = 2**31 - 1  # the contract's type

# Returns the migration sets that the database lacks versions of. Raises psycopg.Error.
MissingMigrations = Callable[[Connection], Awaitable[Mapping[str, int]]]

_UNREACHABLE: Final = "cannot connect"
_GRPC_OPTIONS: Final = (
    # Detects a recovered service soon: by default gRPC waits up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # An internal service must not be called through a proxy that the environment configures for other purposes.
    ("grpc.enable_http_proxy", 0),
)
_GRPC_CAUSES: Final = {
    grpc.StatusCode.UNAVAILABLE: _UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: TIMEOUT,
    grpc.StatusCode.UNIMPLEMENTED: "it does not serve grpc.health.v1",
    grpc.StatusCode.NOT_FOUND: "it does not report its overall status",
    grpc.StatusCode.UNAUTHENTICATED: "authentication failed",
    grpc.StatusCode.PERMISSION_DENIED: "permission denied",
}


class PostgresChecker:
    """Checks one server of the configured database.

    A database with missing migrations is UNHEALTHY; `Finding.missing_sets` tells which services that concerns.
    """

    kind = pb.DATABASE

    def __init__(
        self,
        settings: Settings,
        server: DatabaseServer,
        *,
        missing_migrations: MissingMigrations,
        is_read_from: Callable[[], bool] = lambda: True,
        warning: Callable[[], str] = str,
        on_missing_sets: Callable[[Collection[str]], None] | None = None,
        metadata: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`is_read_from` returns whether reads go to the server now.

        `warning` returns a message that makes it DEGRADED, or an empty text. `on_missing_sets` is called at each check
        with the migration sets that the database lacks versions of. `metadata` returns further metadata to report.
        """
        self.name = server.breaker.name
        self.is_critical = server.name == PRIMARY
        self._server = server
        self._is_read_from = is_read_from
        self._warning = warning
        self._on_missing_sets = on_missing_sets
        self._more_metadata = metadata
        self._settings = settings
        self._missing_migrations = missing_migrations
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._version = ""
        self._role = ""

    async def check(self) -> Finding:
        if self._connection is not None and self._connection.closed:
            self._connection = None
        if (cause := self._known_cause()) is not None:
            return _unusable(cause)
        try:
            connection = await self._connected()
            version, in_recovery, read_only, missing_sets = await connection.run_or_abort(self._ask(connection))
        except psycopg.Error as error:
            await self.close()
            return _unusable(_NO_PASSWORD if isinstance(error.__cause__, ConfigError) else error_category(error))
        # Packagers add their own version: "18.4 (Debian 18.4-1)".
        self._version = version.split(" ", 1)[0]
        self._role = _STANDBY if in_recovery else _WRITER
        if read_only and self.is_critical:
            await self.close()  # only a new session finds out whether the address leads to another server by now
        if self._on_missing_sets is not None:
            self._on_missing_sets(missing_sets)
        finding = _schema_out_of_date(missing_sets) if missing_sets else self._judge(read_only=read_only)
        return replace(finding, serves_reads=self._is_read_from())

    def details(self) -> pb.DependencyConfig:
        hosts = dict.fromkeys(_shown(host.host) for host in self._server.hosts)
        return pb.DependencyConfig(
            hostname=",".join(hosts),
            port=self._server.hosts[0].port,
            protocol="postgresql",
            database_name=self._settings.db_name,
            schema_name=self._settings.db_schema,
            version=self._version,
            pool_info=pool_info(self._server.pool.get_stats()),
            metadata=self._metadata(),
        )

    async def close(self) -> None:
        """Closes the connection, and cancels an attempt to connect."""
        connection, self._connection = self._connection, None
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            await cancel_and_wait([connecting])
            if not connecting.cancelled() and connecting.exception() is None:
                connection = connecting.result()
        if connection is not None:
            await connection.close()

    async def _ask(self, connection: Connection) -> tuple[str, bool, bool, frozenset[str]]:
        """Returns the version, whether the server is in recovery, whether it takes no writes, and the missing sets."""
        cursor = await connection.execute(_STATE_QUERY)
        version, in_recovery, read_only = await cursor.fetchone() or ("", False, False)
        missing_sets = frozenset(await self._missing_migrations(connection))
        return version, in_recovery, in_recovery or read_only, missing_sets

    def _known_cause(self) -> str | None:
        """Returns the cause while the circuit breaker is open: then only the server's monitor tries to connect."""
        if self._server.breaker.closed or self._connection or self._connecting:
            return None
        return self._server.last_error or TIMEOUT

    def _judge(self, *, read_only: bool) -> Finding:
        """Returns the finding for a server that answers and has every migration."""
        if read_only and self.is_critical:
            return Finding(status=Status.DEGRADED, message="read-only: the server takes no writes")
        if not self._server.breaker.closed:
            message = f"it answers, and its circuit breaker is {self._server.breaker.state}"
            return Finding(status=Status.DEGRADED, message=message)
        if (seen := self._server.last_status) is not None and seen.diverged:
            message = "it is not a replica of this primary: rebuild it"
            return Finding(status=Status.UNHEALTHY, message=message, error="not a replica")
        if seen is not None and seen.lag.seconds > (limit := self._settings.db_replica_max_lag):
            return Finding(status=Status.DEGRADED, message=f"its lag is over {limit:g} s: it is not read from")
        if message := self._warning():
            return Finding(status=Status.DEGRADED, message=message)
        return Finding(status=Status.HEALTHY, message="it answers")

    def _metadata(self) -> dict[str, str]:
        breaker, stats = self._server.breaker, self._server.pool.get_stats()
        metadata = {
            **self._more_metadata(),
            **({"server_role": self._role} if self._role else {}),
            "circuit_breaker": breaker.state,
            "circuit_breaker_trips": str(breaker.trips),
            "total_waits": str(stats["requests_queued"]),
            **{name: str(stats[name]) for name in ("closed_by_idle_time", "closed_by_lifetime")},
            "circuit_breaker_since": breaker.since.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        if sockets := [f"{host.host}/.s.PGSQL.{host.port}" for host in self._server.hosts if host.host[0] == "/"]:
            metadata["socket"] = ",".join(sockets)
        if not self.is_critical and (lag := self._server.lag) is not None:
            metadata["replication_lag_ms"] = f"{lag.seconds * 1000:.0f}"
            metadata["replication_lag_bytes"] = str(lag.bytes)
        return metadata

    async def _connected(self) -> Connection:
        """Returns the connection; the next check continues an attempt that a cancelled check began.

        A check is shorter than the time after which libpq tries the next host if the first one does not respond.
        """
        if self._connection is None:
            if self._connecting is None:
                connecting = self._server.connector.connect("vsyncd health")
                self._connecting = asyncio.get_running_loop().create_task(connecting, name=f"{self.name} health")
            await asyncio.wait({self._connecting})
            made, self._connecting = self._connecting, None
            self._connection = made.result()
            self._connection.prepare_threshold = None  # poolers
        return self._connection


def _unusable(cause: str) -> Finding:
    return Finding(status=Status.UNHEALTHY, message=f"cannot be used: {cause}", error=cause)


def _schema_out_of_date(missing_sets: frozenset[str]) -> Finding:
    names = ", ".join(sorted(missing_sets))
    return Finding(
        status=Status.UNHEALTHY,
        message=f"the schema is older than this server needs (migration sets: {names}): migrate it",
        error="schema out of date",
        missing_sets=missing_sets,
    )


def pool_info(stats: Mapping[str, int]) -> pb.ConnectionPoolInfo:
    """Returns psycopg_pool's counters as the contract has them."""
    available = stats.get("pool_available", 0)
    return pb.ConnectionPoolInfo(
        max_connections=stats.get("pool_max", 0),
        active_connections=max(0, stats.get("pool_size", 0) - available),
        idle_connections=available,
        wait_count=stats.get("requests_waiting", 0),
        wait_duration_ms=min(stats.get("requests_wait_ms", 0), _MAX_INT32),
    )


def _shown(host: str) -> str:
    """Returns a name for the host of a socket, whose path is in the metadata."""
    return "localhost" if host.startswith("/") else host


class RedisChecker:
    """Checks Redis and whether the cache can be used. `instances` returns the number of instances that share it."""

    name = DEPENDENCY
    kind = pb.CACHE
    is_critical = False

    def __init__(self, services: CacheServices, *, timeout: float, instances: Callable[[], int]) -> None:
        self._services = services
        self._timeout = timeout
        self._instances = instances
        self._version = ""

    async def check(self) -> Finding:
        """Probes Redis, unless its circuit breaker is open."""
        cache, breaker = self._services.cache, self._services.breaker
        if breaker.state != CLOSED:
            message = f"cannot be used: the circuit breaker is {breaker.state}"
            return Finding(status=Status.UNHEALTHY, message=message, error=_UNREACHABLE)
        try:
            if not self._version:
                server = await cache.info("server")
                self._version = str(server.get("valkey_version") or server.get("redis_version", ""))
            await cache.ping(self._timeout)
        except CacheError as error:
            late = isinstance(error.__cause__, TimeoutError | RedisTimeout)
            cause = TIMEOUT if late else _UNREACHABLE
            return Finding(status=Status.UNHEALTHY, message=f"cannot be used: {cause}", error=cause)
        if cache.is_full:
            return Finding(status=Status.DEGRADED, message="it is full and stores no more records")
        if self._services.invalidator.is_overdue:
            return Finding(status=Status.DEGRADED, message="not used: it does not receive the changes of the database")
        return Finding(status=Status.HEALTHY, message="it answers")

    def details(self) -> pb.DependencyConfig:
        address = self._services.address
        metadata = {
            "circuit_breaker": self._services.breaker.state,
            "mode": address.mode,
            "current": str(self._services.invalidator.is_current).lower(),
            "instances": str(self._instances()),
            **({"socket": address.socket} if address.socket else {}),
        }
        return pb.DependencyConfig(
            hostname=",".join(host.host for host in address.hosts) or "localhost",
            port=address.hosts[0].port if address.hosts else 0,
            protocol="rediss" if address.tls else "redis",
            database_name=str(address.database),
            version=self._version,
            metadata=metadata,
        )

    async def close(self) -> None:
        """Does nothing: the connections belong to the cache."""


class GrpcChecker:
    """Calls Check for the service "", the overall status. `timeout` in seconds is the call's deadline. Uses no TLS."""

    kind = pb.GRPC_SERVICE

    def __init__(self, dependency: GrpcDependency, *, timeout: float) -> None:
        self.name = dependency.name
        self.is_critical = dependency.is_critical
        self._endpoint = dependency.endpoint
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._ask: Any = None  # a method of the channel, generic over its messages

    async def check(self) -> Finding:
        if self._channel is None:
            # Created here, because a channel belongs to the running event loop.
            self._channel = grpc.aio.insecure_channel(str(self._endpoint), options=_GRPC_OPTIONS)
            self._ask = self._channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=standard_pb.HealthCheckRequest.SerializeToString,
                response_deserializer=standard_pb.HealthCheckResponse.FromString,
            )
        try:
            response = await self._ask(standard_pb.HealthCheckRequest(), timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            # The error's details may contain addresses.
            cause = _GRPC_CAUSES.get(error.code(), f"it answers {error.code().name}")
            return Finding(status=Status.UNHEALTHY, message=f"cannot be used: {cause}", error=cause)
        if response.status == standard_pb.HealthCheckResponse.SERVING:
            return Finding(status=Status.HEALTHY, message="it is serving")
        return Finding(status=Status.UNHEALTHY, message="it reports NOT_SERVING", error="not serving")

    def details(self) -> pb.DependencyConfig:
        return pb.DependencyConfig(hostname=self._endpoint.host, port=self._endpoint.port, protocol="grpc")

    async def close(self) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()


class AccessChecker:
    """DEGRADED while access control has warnings, and otherwise HEALTHY with its summary. Both come from memory."""

    name = "access-control"
    kind = pb.OTHER
    is_critical = False

    def __init__(self, warnings: Callable[[], Sequence[str]], summary: Callable[[], str]) -> None:
        self._warnings = warnings
        self._summary = summary

    async def check(self) -> Finding:
        if warnings := self._warnings():
            return Finding(status=Status.DEGRADED, message="; ".join(warnings))
        return Finding(status=Status.HEALTHY, message=self._summary())

    def details(self) -> pb.DependencyConfig:
        return pb.DependencyConfig()

    async def close(self) -> None:
        """Does nothing."""
