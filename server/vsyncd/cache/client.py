"""Creates redis-py clients for each kind of REDIS_URL. They neither retry nor open idle connections."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from vsyncd.config.redis_url import RedisAddress

Client: TypeAlias = Redis | RedisCluster

# Lookups are batched, so a few connections suffice.
_MAX_CONNECTIONS: Final = 8


class Clients(NamedTuple):
    """The client for commands, and the clients of the sentinels that it asks for the master's address."""

    main: Client
    sentinels: Sequence[Redis] = ()

    async def close(self) -> None:
        for client in (self.main, *self.sentinels):
            with suppress(RedisError, OSError):
                await client.aclose()


def open_clients(address: RedisAddress, *, connect_timeout: float, timeout: float) -> Clients:
    """Returns clients that connect when they are first used. Timeouts are in seconds."""
    options: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": timeout,
        "client_name": "vsyncd",
        "protocol": 2,
    }
    tls: dict[str, Any] = {"ssl": True, **address.tls_files} if address.tls else {}
    if address.mode == "cluster":
        nodes = [ClusterNode(host.host, host.port) for host in address.hosts]
        cluster = RedisCluster(startup_nodes=nodes, retry=_no_retry(), **options, **tls)
        return Clients(cluster)
    options |= {"db": address.database, "retry": _no_retry()}
    if address.mode == "sentinel":
        sentinel_options = {
            "username": address.sentinel_username,
            "password": address.sentinel_password,
            "socket_connect_timeout": connect_timeout,
            "socket_timeout": timeout,
            "retry": _no_retry(),
            **tls,
        }
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]  # redis-py's own
            [tuple(host) for host in address.hosts], sentinel_kwargs=sentinel_options, **options, **tls
        )
        master: Redis = sentinel.master_for(address.service)
        return Clients(master, sentinel.sentinels)
    return Clients(Redis.from_pool(_connection_pool(address, options)))


def _connection_pool(address: RedisAddress, options: dict[str, Any]) -> ConnectionPool:
    if address.socket:
        connection_class: type[Any] = UnixDomainSocketConnection
        options |= {"path": address.socket}
    else:
        connection_class = SSLConnection if address.tls else Connection
        options |= {"host": address.hosts[0].host, "port": address.hosts[0].port, **address.tls_files}
    return BlockingConnectionPool(
        connection_class=connection_class, max_connections=_MAX_CONNECTIONS, timeout=None, **options
    )


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)
