"""The operations of Redis that are used: each bounded in time, counted, and behind a circuit breaker.

Names and values are bytes. Times are in seconds.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from vsyncd.cache.client import Clients
from vsyncd.cache.errors import REDIS_ERRORS, CacheRefused, CacheUnavailable
from vsyncd.cache.pubsub import Subscriber
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import CACHE
from vsyncd.observability.tracing import TRACES
from vsyncd.resilience.circuit_breaker import CircuitBreaker

T = TypeVar("T")

_DEBUG: Final = 10
# Seconds for which one refusal says that Redis is full.
_FULL: Final = 10.0


_log = logger(__name__)


class Cache:
    """Raises CacheUnavailable when Redis is not there, does not answer within `timeout`, or the breaker is open; and
    CacheRefused when it answers that it will not."""

    def __init__(self, clients: Clients, *, breaker: CircuitBreaker, timeout: float) -> None:
        self.breaker = breaker
        self._clients = clients
        self._client = clients.main
        self._timeout = timeout
        self._full_at = float("-inf")

    @property
    def full(self) -> bool:
        """Whether Redis has just said that it has no memory left."""
        return time.monotonic() - self._full_at < _FULL

    async def get(self, name: bytes) -> bytes | None:
        """The value of a name."""
        return await self._do("get", lambda: self._client.get(name), _value)

    async def get_many(self, names: Sequence[bytes]) -> list[bytes | None]:
        """The values of names, as they are at one moment."""
        return await self._do("get", lambda: self._client.mget(names), partial(_values, len(names)))

    async def set(self, name: bytes, value: bytes, ttl: float) -> None:
        """Store a value for a time."""
        await self._do("set", lambda: self._client.set(name, value, px=_milliseconds(ttl)), bool)

    async def set_if_absent(self, names: Sequence[bytes], value: bytes, ttl: float) -> list[bool]:
        """Store a value under each name that has none; for each, whether it had none."""
        if len(names) == 1:
            return [await self._do("set_if_absent", lambda: self._put(self._client, names[0], value, ttl), bool)]
        stored = await self._do("set_if_absent", lambda: self._put_many(names, value, ttl), _list)
        return [bool(each) for each in stored]

    async def delete(self, names: Sequence[bytes]) -> int:
        """Forget values; how many there were."""
        return await self._do("delete", lambda: self._client.delete(*names), _number)

    async def refresh_ttl(self, name: bytes, ttl: float) -> bool:
        """Keep a value for a time from now; False: it is gone."""
        return await self._do("refresh_ttl", lambda: self._client.pexpire(name, _milliseconds(ttl)), bool)

    async def run(
        self, operation: str, script: str, names: Sequence[bytes], *values: bytes | int, stores: bool = False
    ) -> int:
        """A Lua script over names, as one step; the number that it gives. `stores`: it needs memory, so that having run
        it shows that there is some."""
        call = self._client.eval
        answer = await self._do(operation, lambda: call(script, len(names), *names, *values), _number)
        if stores:
            self._full_at = float("-inf")
        return answer

    async def publish(self, channel: bytes, message: bytes) -> None:
        """Tell whoever listens."""
        await self._do("publish", lambda: self._client.publish(channel, message), _number)

    async def info(self, section: str) -> dict[str, Any]:
        """What Redis says of itself."""
        return await self._do("info", lambda: self._client.info(section), _dict)

    async def probe(self, timeout: float) -> None:
        """A ping, also while the breaker is open; connecting may take as long."""

        async def ping() -> None:
            if not await self._client.ping():
                raise ValueError("it answers something else")

        await self._bounded("ping", ping, timeout)

    async def listen(self, channel: bytes) -> Subscriber:
        """What hears a channel's messages, over a connection of its own; it has to be closed."""
        await self.probe(self._timeout)  # a cluster's nodes are known from then on
        listener: Any = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            await self._bounded("subscribe", lambda: listener.subscribe(channel), self._timeout)
        except CacheUnavailable:
            await listener.aclose()
            raise
        return Subscriber(listener)

    async def close(self) -> None:
        """Close every connection."""
        await self._clients.close()

    async def _put_many(self, names: Sequence[bytes], value: bytes, ttl: float) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            self._put(pipeline, name, value, ttl)
        return await pipeline.execute()

    @staticmethod
    def _put(client: Any, name: bytes, value: bytes, ttl: float) -> Any:  # noqa: ANN401  a client or a pipeline of one
        return client.set(name, value, px=_milliseconds(ttl), nx=True)

    async def _do(self, operation: str, call: Callable[[], Any], read: Callable[[Any], T]) -> T:
        """The answer as `read` has it, which raises ValueError for another kind of answer."""
        if not self.breaker.closed:
            raise CacheUnavailable("the circuit is open")

        async def asked() -> T:
            return read(await call())

        answer = await self._bounded(operation, asked, self._timeout)
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
            raise CacheRefused("Redis is full") from error
        except ReadOnlyError as error:
            # It was the master once: whoever is by now has to be looked for.
            cause = "read_only"
            await self._disconnect()
            self.breaker.failed()
            raise CacheUnavailable("Redis has become a replica") from error
        except ResponseError as error:
            cause = "refused"
            raise CacheRefused("Redis refused a command") from error
        except REDIS_ERRORS as error:
            cause = "timeout" if isinstance(error, TimeoutError | RedisTimeout) else "connection"
            self.breaker.failed()
            raise CacheUnavailable("Redis does not answer") from error
        finally:
            seconds = time.perf_counter() - started
            CACHE.operation(operation, seconds)
            if cause:
                CACHE.error(operation, cause)
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
        raise ValueError("not as many values as names")
    return values


def _list(answer: object) -> list[Any]:
    if isinstance(answer, list):
        return answer
    raise ValueError("not a list")


def _number(answer: object) -> int:
    if isinstance(answer, int):
        return answer
    raise ValueError("not a number")


def _dict(answer: object) -> dict[str, Any]:
    if isinstance(answer, dict):
        return answer
    raise ValueError("not what Redis says of itself")


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
