"""What the metrics tell of a server: its pool, its breaker, and how far it is behind."""

from collections.abc import Callable
from typing import Final

from vsyncd.metrics import (
    BREAKER_STATE,
    BREAKER_TRIPS,
    POOLS,
    REPLICA_LAG_BYTES,
    REPLICA_LAG_SECONDS,
    BreakerState,
)
from vsyncd.postgres.breaker import CLOSED, HALF_OPEN, OPEN
from vsyncd.postgres.target import PRIMARY, Target

_STATES: Final = {CLOSED: BreakerState.CLOSED, HALF_OPEN: BreakerState.HALF_OPEN, OPEN: BreakerState.OPEN}


def publish(target: Target) -> Callable[[], None]:
    """Let the metrics tell of a server, until what is returned is called."""
    dependency = target.breaker.name
    trips = BREAKER_TRIPS.labels(dependency)

    def changed(state: str) -> None:
        BREAKER_STATE.labels(dependency).set(_STATES[state])
        if state == OPEN:
            trips.inc()

    target.breaker.on_change.append(changed)
    BREAKER_STATE.labels(dependency).set(_STATES[target.breaker.state])
    POOLS.add(target.name, target.pool.get_stats)
    if target.name != PRIMARY:
        REPLICA_LAG_SECONDS.labels(target.name).set_function(lambda: target.seen.lag.seconds if target.seen else 0.0)
        REPLICA_LAG_BYTES.labels(target.name).set_function(lambda: target.seen.lag.bytes if target.seen else 0)

    def withdraw() -> None:
        target.breaker.on_change.remove(changed)
        POOLS.remove(target.name, target.pool.get_stats)
        BREAKER_STATE.remove(dependency)
        if target.name != PRIMARY:
            REPLICA_LAG_SECONDS.remove(target.name)
            REPLICA_LAG_BYTES.remove(target.name)

    return withdraw
