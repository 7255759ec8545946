"""The circuit breaker of one server: while it does not answer, nobody waits for it.

pybreaker counts and keeps the states. Its own ways of calling are not used: `call` never sees the failure of a
coroutine, and its half-open state lets every concurrent call in. What counts as a failure is the business of who uses
the server (target.py): failures to connect, lost connections, and a server that does not answer.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from random import random
from typing import Final

import pybreaker

# Seconds. What fails within them fails for one reason, and counts once: a restart of PostgreSQL ends every connection
# in the same moment, and is over soon.
SPACING: Final = 0.25
# The longer an outage, the further apart the trials: each time by a quarter of `reset`, up to one and a half. Little,
# since whoever waits for the server waits for the next trial. They come earlier by up to a tenth, at random: what a
# server has sent away at once is not to come back at once.
_SLOWER: Final = 0.25
_SLOWEST: Final = 1.5
_EARLIER: Final = 0.1

CLOSED: Final = pybreaker.STATE_CLOSED
OPEN: Final = pybreaker.STATE_OPEN
HALF_OPEN: Final = pybreaker.STATE_HALF_OPEN


class CircuitBreaker:
    """Opens after `failures` failures in a row; from about `reset` seconds after that, one trial at a time may be made.

    The trial is the monitor's: no caller has to find out at his own cost whether the server is back. It alone closes
    the breaker, or keeps it open: what others hear of an attempt that they began before says nothing of now.

    `since`: it has been closed, or not, since then. `on_change` functions are called with the new state (CLOSED, OPEN,
    HALF_OPEN) at each change.
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
        self._trials = 0
        self._failed = False
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

    def begin_trial(self) -> bool:
        """Whether a trial may begin now; it has to end with `succeeded` or `abandon`."""
        if self._closed or self._trying or self.seconds_to_trial > 0:
            return False
        self._trying = True
        self._failed = False
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
            self._machine.close()
            self._changed()

    def failed(self) -> None:
        """The server could not be reached, or went away. While there is a trial nothing comes of it before its end."""
        self._failed = True
        now = self._clock()
        if not self._closed or now - self._last_failure < SPACING:
            return
        self._last_failure = now
        with suppress(_Failed, pybreaker.CircuitBreakerError):
            self._machine.call(_failure)
        if self.state == OPEN:
            self._opened()

    def trip(self) -> None:
        """Open at once: the server hangs, or sends us away."""
        self._failed = True
        if self._closed:
            self._machine.open()
            self._opened()

    def abandon(self) -> None:
        """The trial has ended, or was given up. When something failed meanwhile the breaker is open again; else the
        trial told nothing, and someone else may try."""
        failed, self._trying = self._trying and self._failed, False
        if failed:
            self._trials += 1
            self._machine.open()
            self._opened()

    def _opened(self) -> None:
        if self._closed:  # a trial that failed is part of the same outage
            self.trips += 1
            self._trials = 0
        longer = min(1 + _SLOWER * self._trials, _SLOWEST) * (1 - _EARLIER * random())  # noqa: S311  no secret
        self._next_trial = self._clock() + self._reset * longer
        self._changed()

    def _changed(self) -> None:
        state, was_closed = self.state, self._closed
        self._closed = state == CLOSED
        self._trying = self._trying and state == HALF_OPEN
        if self._closed is not was_closed:
            self.since = datetime.now(UTC)
        for notify in self.on_change:
            notify(state)


class _Failed(Exception):  # noqa: N818  what pybreaker has to see raised
    pass


def _failure() -> None:
    raise _Failed


def _nothing() -> None:
    pass
