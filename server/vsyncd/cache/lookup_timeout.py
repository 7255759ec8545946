"""Limits how long calls wait for Redis, and stops asking a Redis that is slow."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from vsyncd.cache.errors import CacheError

T = TypeVar("T")

# The lookup timeout: how long one call waits for Redis in total, however many lookups it makes.
LOOKUP_TIMEOUT_S: Final = 0.013
# Extensions of the timeout, one after the other. They let the event loop read an answer that has already arrived.
_GRACE_PERIODS_S: Final = (0.001, 0.001)
# The latency guard pauses lookups if the fastest of the last answers took longer than this. It considers the fastest,
# since a busy process or a machine that pauses delays some answers, but not all.
_SLOW_ANSWER_S: Final = 0.005
_SAMPLES: Final = 8
# Lookups of more keys are not measured: they take longer to answer and to read.
_MAX_MEASURED_KEYS: Final = 128
# The latency guard's first pause, and its longest after repeated doubling.
_MIN_PAUSE_S: Final = 0.03
_MAX_PAUSE_S: Final = 0.25


class LookupDeadline:
    """The time until which one call waits for Redis."""

    __slots__ = ("_deadline",)

    def __init__(self) -> None:
        self._deadline = time.monotonic() + LOOKUP_TIMEOUT_S

    @property
    def remaining(self) -> float:
        """The remaining seconds, at least 0."""
        return max(0.0, self._deadline - time.monotonic())

    async def wait(self, answer: asyncio.Future[T]) -> T:
        """Returns the answer. Raises CacheError after the deadline."""
        timer = asyncio.get_running_loop().call_later(self.remaining, _expire, answer, *_GRACE_PERIODS_S)
        try:
            return await answer
        finally:
            timer.cancel()

    async def sleep(self, seconds: float) -> bool:
        """Sleeps before another lookup. Returns False at once if the deadline is nearer than that."""
        if self.remaining <= seconds:
            return False
        await asyncio.sleep(seconds)
        return True


def _expire(answer: asyncio.Future[T], *grace_periods: float) -> None:
    """Fails the answer after the grace periods. Each lets a busy event loop poll its sockets once more."""
    if answer.done():
        return
    if grace_periods:
        asyncio.get_running_loop().call_later(grace_periods[0], _expire, answer, *grace_periods[1:])
    else:
        answer.set_exception(CacheError("the lookup timed out"))


class LatencyGuard:
    """Pauses all lookups for a moment after a timeout, or while every answer is slow. Pure, except for the clock.

    Each pause is twice as long as the one before, up to _MAX_PAUSE_S, until Redis answers in time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latencies: deque[float] = deque(maxlen=_SAMPLES)
        self._next_pause = _MIN_PAUSE_S
        self._paused_until = float("-inf")

    @property
    def paused(self) -> bool:
        """Whether lookups are paused."""
        return self._clock() < self._paused_until

    def record_answer(self, seconds: float, keys: int) -> None:
        """Records the latency of a lookup of this number of keys."""
        if keys > _MAX_MEASURED_KEYS:
            return
        self._latencies.append(seconds)
        if len(self._latencies) == _SAMPLES and min(self._latencies) > _SLOW_ANSWER_S:
            self.pause()
        else:
            self._next_pause = _MIN_PAUSE_S

    def pause(self) -> None:
        """Pauses lookups: one has timed out, or every answer is slow."""
        self._paused_until = self._clock() + self._next_pause
        self._next_pause = min(2 * self._next_pause, _MAX_PAUSE_S)
