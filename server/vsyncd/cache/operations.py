"""The Redis commands in use, each bounded in time, counted, and behind a circuit breaker.

Keys and values are bytes. Times are in seconds. There is a client for each kind of REDIS_URL; clients neither retry nor
open idle connections.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from vsyncd.config.redis_url import RedisAddress
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import CACHE_ERRORS, CACHE_SECONDS
from vsyncd.observability.tracing import TRACES
from vsyncd.resilience.circuit_breaker import CircuitBreaker

Client: TypeAlias = Redis | RedisCluster

# Lookups are batched, so a few connections suffice.
_MAX_CONNECTIONS: Final = 8

# What redis-py raises for a lost connection or an unexpected answer, besides its own errors: RuntimeError is uvloop's
# for a closed connection and, as RecursionError, for a deeply nested answer; ValueError is the parser's for garbage and
# ours for an answer of the wrong type; TypeError and AttributeError come from redis-py's handling of such an answer;
# KeyError from a cluster whose slots it does not know.
REDIS_ERRORS: Final = (RedisError, OSError, ValueError, TypeError, AttributeError, RuntimeError, KeyError)
T = TypeVar("T")
_DEBUG: Final = 10
_GET_WITH_TTL: Final = "return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}"
# How long after an out-of-memory error Redis is considered full.
_FULL_FOR_S: Final = 10.0
_log = logger(__name__)


class Clients(NamedTuple):
    """The client for commands, and the clients of the sentinels that it asks for the master's address."""

    main: Client
    sentinels: Sequence[Redis] = ()

    async def close(self) -> None:
        for client in (self.main, *self.sentinels):
            with suppress(RedisError, OSError):
                await client.aclose()


class CurrentCredentials(CredentialProvider):
    """Reads the user and the password of Redis for each connection."""

    def __init__(self, read: Callable[[], tuple[str | None, str | None]]) -> None:
        self._read = read

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        user, password = self._read()
        return (user, password or "") if user else (password or "",)


def open_clients(
    address: RedisAddress,
    *,
    connect_timeout: float,
    timeout: float,
    current: Callable[[], RedisAddress] | None = None,
) -> Clients:
    """Returns clients that connect when they are first used. Timeouts are in seconds.

    `current` returns the address with the current user and password.
    """
    account = _account(address, current, "username", "password")
    options: dict[str, Any] = {
        **account,
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
            **_account(address, current, "sentinel_username", "sentinel_password"),
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


def _account(
    address: RedisAddress, current: Callable[[], RedisAddress] | None, username: str, password: str
) -> dict[str, Any]:
    """Returns redis-py's options for the account that these fields of the address name."""
    if current is None or not (getattr(address, username) or getattr(address, password)):
        return {"username": getattr(address, username), "password": getattr(address, password)}

    def read() -> tuple[str | None, str | None]:
        now = current()
        return getattr(now, username), getattr(now, password)

    return {"credential_provider": CurrentCredentials(read)}


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


class CacheError(Exception):
    """Redis is unreachable, does not answer in time, or refused a command. The text contains no keys or values."""


class Subscription:
    """Receives the messages of a channel over a dedicated connection. A silently lost connection is not detected."""

    def __init__(self, pubsub: Any) -> None:  # noqa: ANN401  redis-py has a separate class for clusters
        self._pubsub = pubsub

    async def next_message(self, timeout: float) -> bytes | None:
        """Returns the next message, or None after `timeout` seconds. Raises CacheError."""
        try:
            message = await self._pubsub.get_message(timeout=timeout)
        except REDIS_ERRORS as error:
            raise CacheError("Redis does not answer") from error
        data = message.get("data") if isinstance(message, Mapping) and message.get("type") == "message" else None
        return data if isinstance(data, bytes) else None

    async def close(self) -> None:
        await self._pubsub.aclose()


class Cache:
    """Executes commands on Redis.

    Raises CacheError if Redis is unreachable, does not answer within `timeout`, or refuses the command, and while the
    circuit breaker is open.
    """

    def __init__(self, clients: Clients, *, breaker: CircuitBreaker, timeout: float) -> None:
        self.breaker = breaker
        self._clients = clients
        self._client = clients.main
        self._timeout = timeout
        self._full_at = float("-inf")

    @property
    def is_full(self) -> bool:
        """Whether Redis has recently reported that it is out of memory."""
        return time.monotonic() - self._full_at < _FULL_FOR_S

    async def get(self, key: bytes) -> bytes | None:
        return await self._execute("get", lambda: self._client.get(key), _value)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the values of the keys, all as of one moment."""
        return await self._execute("get", lambda: self._client.mget(keys), partial(_values, len(keys)))

    async def get_with_ttl(self, key: bytes) -> tuple[bytes | None, float]:
        """Returns the value of a key and its time to live in seconds, as of one moment."""
        call = self._client.eval
        answer = await self._execute("get", lambda: call(_GET_WITH_TTL, 1, key), _list)
        return _value(answer[0]), answer[1] / 1000

    async def set(self, key: bytes, value: bytes, ttl: float) -> None:
        await self._execute("set", lambda: self._client.set(key, value, px=_milliseconds(ttl)), bool)

    async def set_if_absent(self, keys: Sequence[bytes], value: bytes, ttl: float) -> list[bool]:
        """Stores a value under each key that has none. Returns for each key whether it was stored."""
        if len(keys) == 1:
            return [await self._execute("set_if_absent", lambda: self._put(self._client, keys[0], value, ttl), bool)]
        stored = await self._execute("set_if_absent", lambda: self._put_many(keys, value, ttl), _list)
        return [bool(each) for each in stored]

    async def refresh_ttl(self, key: bytes, ttl: float) -> bool:
        """Extends the time to live of a value. Returns False if there is none."""
        return await self._execute("refresh_ttl", lambda: self._client.pexpire(key, _milliseconds(ttl)), bool)

    async def run_script(
        self, operation: str, script: str, keys: Sequence[bytes], *values: bytes | int, stores: bool = False
    ) -> int:
        """Executes a Lua script atomically and returns its number.

        `stores`: the script needs memory, so its success shows that Redis is not full.
        """
        call = self._client.eval
        answer = await self._execute(operation, lambda: call(script, len(keys), *keys, *values), _number)
        if stores:
            self._full_at = float("-inf")
        return answer

    async def publish(self, channel: bytes, message: bytes) -> None:
        await self._execute("publish", lambda: self._client.publish(channel, message), _number)

    async def info(self, section: str) -> dict[str, Any]:
        return await self._execute("info", lambda: self._client.info(section), _dict)

    async def ping(self, timeout: float) -> None:
        """Pings Redis, also while the breaker is open. Connecting may take up to `timeout`."""

        async def ping() -> None:
            if not await self._client.ping():
                raise ValueError("not an answer to PING")

        await self._bounded("ping", ping, timeout)

    async def is_available(self, connect_timeout: float, *, probe: bool = False) -> bool:
        """Whether Redis may be used. Pings it for each trial of the open circuit breaker, and if `probe`."""
        if self.breaker.closed and not probe:
            return True
        trial = self.breaker.begin_trial()
        if not (trial or self.breaker.closed):
            return False
        try:
            await self.ping(connect_timeout)
        except CacheError:
            return False
        finally:
            if trial:
                self.breaker.abandon()
        self.breaker.succeeded(trial=trial)
        return True

    async def subscribe(self, channel: bytes) -> Subscription:
        """Subscribes to a channel. The caller closes the subscription."""
        await self.ping(self._timeout)  # a cluster client discovers its nodes with this
        pubsub: Any = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            await self._bounded("subscribe", lambda: pubsub.subscribe(channel), self._timeout)
        except CacheError:
            await pubsub.aclose()
            raise
        return Subscription(pubsub)

    async def close(self) -> None:
        await self._clients.close()

    async def _put_many(self, keys: Sequence[bytes], value: bytes, ttl: float) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            self._put(pipeline, key, value, ttl)
        return await pipeline.execute()

    @staticmethod
    def _put(client: Any, key: bytes, value: bytes, ttl: float) -> Any:  # noqa: ANN401  a client or its pipeline
        return client.set(key, value, px=_milliseconds(ttl), nx=True)

    async def _execute(self, operation: str, call: Callable[[], Any], parse: Callable[[Any], T]) -> T:
        """Returns the parsed answer. `parse` raises ValueError for an answer of the wrong type."""
        if not self.breaker.closed:
            raise CacheError("the circuit breaker is open")

        async def parsed() -> T:
            return parse(await call())

        answer = await self._bounded(operation, parsed, self._timeout)
        self.breaker.succeeded()
        return answer

    async def _bounded(self, operation: str, call: Callable[[], Awaitable[T]], timeout: float) -> T:
        started = time.perf_counter()
        cause = ""
        try:
            with TRACES.operation(f"cache {operation}", "redis"):
                async with asyncio.timeout(timeout):
                    return await call()
        except OutOfMemoryError as error:
            cause, self._full_at = "full", time.monotonic()
            raise CacheError("Redis is full") from error
        except ReadOnlyError as error:
            # This was the master before a failover. New connections find the new master.
            cause = "read_only"
            await self._disconnect()
            self.breaker.failed()
            raise CacheError("Redis has become a replica") from error
        except ResponseError as error:
            cause = "refused"
            raise CacheError("Redis refused a command") from error
        except REDIS_ERRORS as error:
            cause = "timeout" if isinstance(error, TimeoutError | RedisTimeout) else "connection"
            self.breaker.failed()
            raise CacheError("Redis does not answer") from error
        finally:
            seconds = time.perf_counter() - started
            CACHE_SECONDS.labels(operation).observe(seconds)
            if cause:
                CACHE_ERRORS.add(operation, cause)
            if _log.is_enabled_for(_DEBUG):
                _log.debug("cache", operation=operation, duration_ms=round(seconds * 1000, 2), error=cause)

    async def _disconnect(self) -> None:
        pool = getattr(self._client, "connection_pool", None)
        if pool is not None:
            await pool.disconnect(inuse_connections=False)


def _value(answer: object) -> bytes | None:
    if answer is None or isinstance(answer, bytes):
        return answer
    raise ValueError("not a value")


def _values(count: int, answer: object) -> list[bytes | None]:
    values = [_value(each) for each in _list(answer)]
    if len(values) != count:
        raise ValueError("the wrong number of values")
    return values


def _instance_of(expected: type[T], answer: object) -> T:
    if isinstance(answer, expected):
        return answer
    raise ValueError(f"not a {expected.__name__}")


_list = partial(_instance_of, list)
_number = partial(_instance_of, int)
_dict = partial(_instance_of, dict)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
