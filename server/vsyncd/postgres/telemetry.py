"""Publishes metrics of a server: its pool, its circuit breaker, and its replication lag."""

from collections.abc import Callable
from contextlib import ExitStack
from math import nan

from vsyncd.observability.metrics import POOLS, REPLICA_LAG_BYTES, REPLICA_LAG_SECONDS
from vsyncd.postgres.database_server import PRIMARY, DatabaseServer
from vsyncd.resilience.circuit_breaker import publish_breaker


def publish(server: DatabaseServer) -> Callable[[], None]:
    """Publishes the server's metrics until the returned function is called."""
    stack = ExitStack()
    stack.callback(publish_breaker(server.breaker))
    POOLS.add(server.name, server.pool.get_stats)
    stack.callback(POOLS.remove, server.name, server.pool.get_stats)
    if server.name != PRIMARY:
        REPLICA_LAG_SECONDS.labels(server.name).set_function(lambda: lag.seconds if (lag := server.lag) else nan)
        REPLICA_LAG_BYTES.labels(server.name).set_function(lambda: lag.bytes if (lag := server.lag) else nan)
        stack.callback(REPLICA_LAG_SECONDS.remove, server.name)
        stack.callback(REPLICA_LAG_BYTES.remove, server.name)
    return stack.close
