"""redis-py, set up for a place: nothing is tried twice behind our back, and no connection is made without need."""

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

# Calls are gathered: a few connections carry them all.
_CONNECTIONS: Final = 8


class Clients(NamedTuple):
    """The client, and those that it asks where to connect to; all have to be closed."""

    main: Client
    others: Sequence[Redis] = ()

    async def close(self) -> None:
        """Close every connection."""
        for client in (self.main, *self.others):
            with suppress(RedisError, OSError):
                await client.aclose()


def open_clients(place: RedisAddress, *, connect_timeout: float, timeout: float) -> Clients:
    """Clients that connect when they are first used. Times in seconds."""
    options: dict[str, Any] = {
        "username": place.username,
        "password": place.password,
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": timeout,
        "client_name": "vsyncd",
        "protocol": 2,
    }
    tls: dict[str, Any] = {"ssl": True, **place.tls_files} if place.tls else {}
    if place.mode == "cluster":
        nodes = [ClusterNode(host.host, host.port) for host in place.hosts]
        cluster = RedisCluster(startup_nodes=nodes, retry=_once(), **options, **tls)
        return Clients(cluster)
    options |= {"db": place.database, "retry": _once()}
    if place.mode == "sentinel":
        asking = {
            "username": place.sentinel_username,
            "password": place.sentinel_password,
            "socket_connect_timeout": connect_timeout,
            "socket_timeout": timeout,
            "retry": _once(),
            **tls,
        }
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]  # redis-py's own
            [tuple(host) for host in place.hosts], sentinel_kwargs=asking, **options, **tls
        )
        master: Redis = sentinel.master_for(place.service)
        return Clients(master, sentinel.sentinels)
    return Clients(Redis.from_pool(_pool(place, options)))


def _pool(place: RedisAddress, options: dict[str, Any]) -> ConnectionPool:
    if place.socket:
        kind: type[Any] = UnixDomainSocketConnection
        options |= {"path": place.socket}
    else:
        kind = SSLConnection if place.tls else Connection
        options |= {"host": place.hosts[0].host, "port": place.hosts[0].port, **place.tls_files}
    return BlockingConnectionPool(connection_class=kind, max_connections=_CONNECTIONS, timeout=None, **options)


def _once() -> Retry:
    return Retry(NoBackoff(), 0)
