"""Whether and when to go on after a lost stream."""

import random
import time
from collections.abc import Callable

import grpc

from vsync.errors import CallError, Contention, Overloaded

OnWait = Callable[[CallError, float], None]
"""Hears why a stream was lost, and how many seconds pass before it is opened again."""

FIRST_DELAY = 0.2
MAX_DELAY = 5.0
# Sent by gRPC itself when a connection breaks or a proxy resets a stream; with a reason they are the server's answer.
_BROKEN_STREAM = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED})
_PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


def ignore_wait(_error: CallError, _delay: float) -> None:
    """For those who need not know."""


def is_passing(error: CallError) -> bool:
    """Whether the same stream, resumed later, may get further."""
    if error.code in _BROKEN_STREAM:
        return not error.reason
    return error.code in _PASSING or isinstance(error, Overloaded | Contention)


class Patience:
    """How long to go on trying without getting anywhere."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._delay = FIRST_DELAY
        self._since: float | None = None

    def progress(self) -> None:
        """Something arrived: the time starts anew."""
        self._delay = FIRST_DELAY
        self._since = None

    def delay_after(self, error: CallError) -> float:
        """Seconds to wait before the next attempt: what the server asks for, else twice as long each time.

        Raises the error itself when another attempt is pointless, or when the time is used up.
        """
        now = self._clock()
        self._since = now if self._since is None else self._since
        if not is_passing(error) or now - self._since >= self._seconds:
            raise error
        delay = self._delay if error.retry_after is None else error.retry_after
        self._delay = min(2 * self._delay, MAX_DELAY)
        # Spread, so that the clients of a restarted server do not all come back at once.
        return delay * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
