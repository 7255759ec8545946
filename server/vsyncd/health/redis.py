"""Checks the cache's Redis. It is not critical, since the database serves every read without it."""

from collections.abc import Callable
from typing import Final

from redis.exceptions import TimeoutError as RedisTimeout
from vsync.health.v1 import health_pb2 as pb

from vsyncd.cache.operations import CacheError
from vsyncd.cache.wiring import DEPENDENCY, CacheServices
from vsyncd.health.status import Finding, Status
from vsyncd.postgres.error_mapping import TIMEOUT
from vsyncd.resilience.circuit_breaker import CLOSED

_UNREACHABLE: Final = "cannot connect"


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
        """Returns the address, the version and the cache's state."""
        address = self._services.address
        metadata = {
            "circuit_breaker": self._services.breaker.state,
            "mode": address.mode,
            "current": str(self._services.invalidator.is_current).lower(),
            "instances": str(self._instances()),
        }
        return pb.DependencyConfig(
            # The folder of a socket would disclose the machine's file system.
            hostname=",".join(host.host for host in address.hosts) or "localhost",
            port=address.hosts[0].port if address.hosts else 0,
            protocol="rediss" if address.tls else "redis",
            database_name=str(address.database),
            version=self._version,
            metadata=metadata,
        )

    async def close(self) -> None:
        """Does nothing: the connections belong to the cache."""
