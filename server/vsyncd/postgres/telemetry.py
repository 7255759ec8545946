"""What the metrics tell of a server: its pool, its breaker, and how far it is behind."""

from collections.abc import Callable
from math import nan
from typing import Final

from vsyncd.observability.metrics import (
    BREAKER_SINCE,
    BREAKER_STATE,
    BREAKER_TRIPS,
    POOLS,
    REPLICA_LAG_BYTES,
    REPLICA_LAG_SECONDS,
    BreakerState,
)
from vsyncd.postgres.database_server import PRIMARY, DatabaseServer
from vsyncd.resilience.circuit_breaker import CLOSED, HALF_OPEN, OPEN, CircuitBreaker

_STATES: Final = {CLOSED: BreakerState.CLOSED, HALF_OPEN: BreakerState.HALF_OPEN, OPEN: BreakerState.OPEN}


def publish_breaker(breaker: CircuitBreaker) -> Callable[[], None]:
    """Let the metrics tell of a circuit breaker, until what is returned is called."""
    dependency = breaker.name
    trips, counted = BREAKER_TRIPS.labels(dependency), breaker.trips

    def tell(state: str) -> None:
        nonlocal counted
        BREAKER_STATE.labels(dependency).set(_STATES[state])
        BREAKER_SINCE.labels(dependency).set(breaker.since.timestamp())
        trips.inc(breaker.trips - counted)
        counted = breaker.trips

    def withdraw() -> None:
        breaker.on_change.remove(tell)
        BREAKER_STATE.remove(dependency)
        BREAKER_SINCE.remove(dependency)

    breaker.on_change.append(tell)
    tell(breaker.state)
    return withdraw


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
