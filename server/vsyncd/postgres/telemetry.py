"""What the metrics tell of a server: its pool, its breaker, and how far it is behind."""

from collections.abc import Callable
from math import nan

from vsyncd.observability.metrics import (
    POOLS,
    REPLICA_LAG_BYTES,
    REPLICA_LAG_SECONDS,
    publish_breaker,
)
from vsyncd.postgres.database_server import PRIMARY, DatabaseServer


def publish(target: DatabaseServer) -> Callable[[], None]:
    """Let the metrics tell of a server, until what is returned is called."""
    withdraw_breaker = publish_breaker(target.breaker)
    POOLS.add(target.name, target.pool.get_stats)
    if target.name != PRIMARY:
        REPLICA_LAG_SECONDS.labels(target.name).set_function(lambda: _lag_of(target)[0])
        REPLICA_LAG_BYTES.labels(target.name).set_function(lambda: _lag_of(target)[1])

    def withdraw() -> None:
        withdraw_breaker()
        POOLS.remove(target.name, target.pool.get_stats)
        if target.name != PRIMARY:
            REPLICA_LAG_SECONDS.remove(target.name)
            REPLICA_LAG_BYTES.remove(target.name)

    return withdraw


def _lag_of(target: DatabaseServer) -> tuple[float, float]:
    """In seconds and in bytes; NaN when nobody knows."""
    return target.lag or (nan, nan)
