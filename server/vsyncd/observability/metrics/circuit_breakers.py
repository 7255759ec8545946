"""Metrics and log events of circuit breakers."""

from collections.abc import Callable
from datetime import datetime
from enum import IntEnum
from typing import Final, Protocol

from prometheus_client import Counter, Gauge

from vsyncd.observability.logs import logger
from vsyncd.observability.metrics.instruments import REGISTRY


class _State(IntEnum):
    """The values of _STATE."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


_STATE: Final = Gauge(
    "vsyncd_circuit_breaker_state",
    "State of a dependency's circuit breaker: 0 closed, 1 half open, 2 open.",
    ["dependency"],
    registry=REGISTRY,
)
_SINCE: Final = Gauge(
    "vsyncd_circuit_breaker_since_timestamp_seconds",
    "Time since which a circuit breaker is closed, or not closed.",
    ["dependency"],
    registry=REGISTRY,
)
_TRIPS: Final = Counter(
    "vsyncd_circuit_breaker_trips", "Times that a circuit breaker opened.", ["dependency"], registry=REGISTRY
)
_log = logger(__name__)


class ObservedBreaker(Protocol):
    """The attributes of resilience.circuit_breaker.CircuitBreaker, which this package does not import."""

    name: str
    trips: int
    since: datetime
    state: str
    on_change: list[Callable[[str], None]]


def publish_breaker(breaker: ObservedBreaker) -> Callable[[], None]:
    """Reports a breaker's changes until the returned function is called."""
    dependency = breaker.name
    trips, counted, previous = _TRIPS.labels(dependency), breaker.trips, breaker.state

    def set_metrics(state: str) -> None:
        nonlocal counted
        _STATE.labels(dependency).set(_State[state.upper().replace("-", "_")])
        _SINCE.labels(dependency).set(breaker.since.timestamp())
        trips.inc(breaker.trips - counted)
        counted = breaker.trips

    def report(state: str) -> None:
        nonlocal previous
        set_metrics(state)
        # An outage has many trials. Only its begin and its end are logged above debug level.
        is_outage_over, was_closed, previous = state == "closed", previous == "closed", state
        log = _log.debug if is_outage_over is was_closed else _log.info if is_outage_over else _log.warning
        log("circuit breaker state changed", dependency=dependency, state=state, trips=breaker.trips)

    def withdraw() -> None:
        breaker.on_change.remove(report)
        _STATE.remove(dependency)
        _SINCE.remove(dependency)

    breaker.on_change.append(report)
    set_metrics(breaker.state)
    return withdraw
