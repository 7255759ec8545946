"""The circuit breaker of one server: while it does not answer, nobody waits for it.

pybreaker counts and keeps the states. Its own ways of calling are not used: `call` never sees the failure of a
coroutine, and its half-open state lets every concurrent call in. What counts as a failure is the business of who uses
the server (target.py): failures to connect, lost connections, and a server that does not answer.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import pybreaker

from vsyncd.logs import logger
from vsyncd.postgres.failures import CircuitOpen

# Seconds. What fails within them fails for one reason, and counts once: a restart of PostgreSQL ends every connection
# in the same moment, and is over soon.
SPACING: Final = 0.25

CLOSED: Final = pybreaker.STATE_CLOSED
OPEN: Final = pybreaker.STATE_OPEN
HALF_OPEN: Final = pybreaker.STATE_HALF_OPEN

_log = logger(__name__)


class Breaker:
    """Opens after `failures` failures in a row; from `reset` seconds after that, one trial at a time may be made.

    The trial is the monitor's: no caller has to find out at his own cost whether the server is back.

    `on_change` functions are called with the new state (CLOSED, OPEN, HALF_OPEN) at each change.
    """

    def __init__(self, name: str, *, failures: int, reset: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.trips = 0
        self.since = datetime.now(UTC)
        self.on_change: list[Callable[[str], None]] = []
        self._machine = pybreaker.CircuitBreaker(fail_max=failures, reset_timeout=reset, name=name)
        self._reset = reset
        self._clock = clock
        self._closed = True
        self._trying = False
        self._next_trial = 0.0
        self._last_failure = float("-inf")

    @property
    def state(self) -> str:
        """CLOSED, OPEN or HALF_OPEN."""
        return self._machine.current_state

    @property
    def closed(self) -> bool:
        """Whether everyone is let through."""
        return self._closed

    @property
    def seconds_to_trial(self) -> float:
        """Until the next trial is let through; 0 when it may begin now."""
        return max(0.0, self._next_trial - self._clock())

    def check(self) -> None:
        """Raises CircuitOpen unless it is closed."""
        if not self._closed:
            raise CircuitOpen(max(self.seconds_to_trial, 0.1))

    def begin_trial(self) -> bool:
        """Whether a trial may begin now; it has to end with `succeeded`, `failed` or `abandon`."""
        if self._closed or self._trying or self.seconds_to_trial > 0:
            return False
        self._trying = True
        if self.state != HALF_OPEN:
            self._machine.half_open()
            self._changed()
        return True

    def succeeded(self, *, trial: bool = False) -> None:
        """The server answered. That of the trial closes the breaker."""
        if self._closed:
            if self._machine.fail_counter:
                self._machine.call(_nothing)
        elif trial:
            self._machine.call(_nothing)
            self._changed()

    def failed(self) -> None:
        """The server could not be reached, or went away. While half-open, the trial has failed."""
        if self.state == OPEN:
            return
        now = self._clock()
        if self._closed and now - self._last_failure < SPACING:
            return
        self._last_failure = now
        with suppress(_Failed, pybreaker.CircuitBreakerError):
            self._machine.call(_failure)
        if self.state == OPEN:
            self._opened()

    def trip(self) -> None:
        """Open at once: the server hangs, or sends us away."""
        if self.state != OPEN:
            self._machine.open()
            self._opened()

    def abandon(self) -> None:
        """The trial ended without telling anything: someone else may try."""
        self._trying = False

    def _opened(self) -> None:
        self.trips += self._closed  # a trial that failed is part of the same outage
        self._next_trial = self._clock() + self._reset
        self._changed()

    def _changed(self) -> None:
        state = self.state
        self._closed = state == CLOSED
        self._trying = self._trying and state == HALF_OPEN
        self.since = datetime.now(UTC)
        log = _log.warning if state == OPEN else _log.info
        log("circuit breaker", dependency=self.name, state=state, trips=self.trips)
        for notify in self.on_change:
            notify(state)


class _Failed(Exception):  # noqa: N818  what pybreaker has to see raised
    pass


def _failure() -> None:
    raise _Failed


def _nothing() -> None:
    pass
