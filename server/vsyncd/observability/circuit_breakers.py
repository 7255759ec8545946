"""Log events and metrics of circuit breakers."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import BREAKER_SINCE, BREAKER_STATE, BREAKER_TRIPS, BreakerState

_log = logger(__name__)


class ObservedBreaker(Protocol):
    """What is read of a resilience.circuit_breaker.CircuitBreaker."""

    name: str
    trips: int
    since: datetime
    on_change: list[Callable[[str], None]]

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        ...

    @property
    def closed(self) -> bool:
        """Whether every call is let through."""
        ...


def publish_breaker(breaker: ObservedBreaker) -> Callable[[], None]:
    """Reports a breaker's changes until the returned function is called."""
    dependency = breaker.name
    trips, counted, closed = BREAKER_TRIPS.labels(dependency), breaker.trips, breaker.closed

    def set_metrics(state: str) -> None:
        nonlocal counted
        BREAKER_STATE.labels(dependency).set(BreakerState[state.upper().replace("-", "_")])
        BREAKER_SINCE.labels(dependency).set(breaker.since.timestamp())
        trips.inc(breaker.trips - counted)
        counted = breaker.trips

    def report(state: str) -> None:
        nonlocal closed
        set_metrics(state)
        # An outage has many trials: only its begin and its end are logged above debug level.
        log = _log.debug if closed is breaker.closed else _log.info if breaker.closed else _log.warning
        closed = breaker.closed
        log("circuit breaker", dependency=dependency, state=state, trips=breaker.trips)

    def withdraw() -> None:
        breaker.on_change.remove(report)
        BREAKER_STATE.remove(dependency)
        BREAKER_SINCE.remove(dependency)

    breaker.on_change.append(report)
    set_metrics(breaker.state)
    return withdraw
