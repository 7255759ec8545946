"""The circuit breaker of one server: while it is open, calls fail at once instead of waiting for the server.

The users of the server decide which errors are failures: failed connections, lost connections and unanswered requests.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import random
from typing import Final

from prometheus_client import Counter, Gauge

from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import REGISTRY

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half-open"

# Failures within this time have one cause and count once: a restart of PostgreSQL ends all connections together.
FAILURE_INTERVAL_S: Final = 0.25
# In a long outage each trial comes later than the one before by this share of `reset`, up to a limit that stays small:
# callers wait for the next trial. Trials come earlier by a random share, so that the instances do not reconnect
# together.
_DELAY_GROWTH: Final = 0.25
_MAX_DELAY: Final = 1.5
_JITTER: Final = 0.1

_STATES: Final = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}  # as numbers in the metrics
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


class CircuitBreaker:
    """Opens after `failures` failures in a row. About `reset` seconds later it allows trials, one at a time.

    The server's monitor makes the trials, not a caller. Only a trial closes the breaker or opens it again; the results
    of attempts that began earlier do not count.

    `state` is CLOSED, OPEN or HALF_OPEN (trials are allowed). `since` is when the breaker last became closed, or ceased
    to be closed. `trips` counts outages. The `on_change` functions are called with the new state.
    """

    def __init__(self, name: str, *, failures: int, reset: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.state = CLOSED
        self.trips = 0
        self.since = datetime.now(UTC)
        self.on_change: list[Callable[[str], None]] = []
        self._max_failures = failures
        self._reset = reset
        self._clock = clock
        self._failures = 0
        self._last_failure = float("-inf")
        self._next_trial = 0.0
        self._in_trial = False
        self._failed_trials = 0
        self._has_failed = False

    @property
    def closed(self) -> bool:
        """Whether calls are allowed."""
        return self.state == CLOSED

    @property
    def seconds_to_trial(self) -> float:
        """Seconds until the next trial is allowed; 0 if it is allowed now."""
        return max(0.0, self._next_trial - self._clock())

    def begin_trial(self) -> bool:
        """Returns whether a trial may begin now. The caller must end it with `succeeded` or `abandon`."""
        if self.closed or self._in_trial or self.seconds_to_trial > 0:
            return False
        self._in_trial = True
        self._has_failed = False
        if self.state != HALF_OPEN:
            self._change(HALF_OPEN)
        return True

    def succeeded(self, *, trial: bool = False) -> None:
        """The server answered. A successful trial closes the breaker."""
        if self.closed:
            self._failures = 0
        elif trial:
            self._failures = 0
            self._change(CLOSED)

    def failed(self) -> None:
        """The server could not be reached, or the connection was lost. During a trial it counts when the trial ends."""
        self._has_failed = True
        now = self._clock()
        if not self.closed or now - self._last_failure < FAILURE_INTERVAL_S:
            return
        self._last_failure = now
        self._failures += 1
        if self._failures >= self._max_failures:
            self._open()

    def trip(self) -> None:
        """Opens the breaker at once: the server hangs, or rejects connections."""
        self._has_failed = True
        if self.closed:
            self._open()

    def abandon(self) -> None:
        """Ends a trial without success.

        The breaker opens again if there was a failure, or else allows another trial.
        """
        if self._in_trial and self._has_failed:
            self._failed_trials += 1
            self._open()
        self._in_trial = False

    def _open(self) -> None:
        if self.closed:  # a failed trial belongs to the same outage
            self.trips += 1
            self._failed_trials = 0
        delay = min(1 + _DELAY_GROWTH * self._failed_trials, _MAX_DELAY) * (1 - _JITTER * random())  # noqa: S311  no secret
        self._next_trial = self._clock() + self._reset * delay
        self._change(OPEN)

    def _change(self, state: str) -> None:
        was_closed, self.state = self.closed, state
        self._in_trial = self._in_trial and state == HALF_OPEN
        if self.closed is not was_closed:
            self.since = datetime.now(UTC)
        for notify in self.on_change:
            notify(state)


def publish_breaker(breaker: CircuitBreaker) -> Callable[[], None]:
    """Reports a breaker's state to the metrics and the log until the returned function is called."""
    dependency = breaker.name
    trips, counted, previous = _TRIPS.labels(dependency), breaker.trips, breaker.state

    def set_metrics(state: str) -> None:
        nonlocal counted
        _STATE.labels(dependency).set(_STATES[state])
        _SINCE.labels(dependency).set(breaker.since.timestamp())
        trips.inc(breaker.trips - counted)
        counted = breaker.trips

    def report(state: str) -> None:
        nonlocal previous
        set_metrics(state)
        # An outage has many trials. Only its begin and its end are logged above debug level.
        is_outage_over, was_closed, previous = state == CLOSED, previous == CLOSED, state
        log = _log.debug if is_outage_over is was_closed else _log.info if is_outage_over else _log.warning
        log("circuit breaker state changed", dependency=dependency, state=state, trips=breaker.trips)

    def withdraw() -> None:
        breaker.on_change.remove(report)
        _STATE.remove(dependency)
        _SINCE.remove(dependency)

    breaker.on_change.append(report)
    set_metrics(breaker.state)
    return withdraw
