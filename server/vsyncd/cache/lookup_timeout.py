"""How long Redis is waited for."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from vsyncd.cache.errors import CacheUnavailable

T = TypeVar("T")

# Seconds that a call waits for Redis in all, for whatever it asks and however many were before it; and what is added
# while this process itself is late.
LIMIT: Final = 0.013
_GRACE: Final = (0.001, 0.001)
# Redis is too slow when the quickest of so many answers took so many seconds: a process that is busy, or a machine that
# pauses, makes some of them late, and not all.
_ANSWERS: Final = 8
_SLOW: Final = 0.005
# Longer questions take their time to be answered, and to be read.
_NAMES: Final = 128
# Then, and after a wait in vain, nobody waits for so long: a moment at first, and twice as long each time, up to the
# second figure, until Redis answers in time.
_RESTS: Final = (0.03, 0.25)


class LookupTimeout:
    """What is left of the time that one call has for Redis, whatever it asks."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = time.monotonic() + LIMIT

    @property
    def left(self) -> float:
        """In seconds; 0 when there is none."""
        return max(0.0, self._until - time.monotonic())

    async def wait(self, answer: asyncio.Future[T]) -> T:
        """The answer. Raises CacheUnavailable, and what it raises; then nobody waits for it any more."""
        timer = asyncio.get_running_loop().call_later(self.left, _give_up, answer, *_GRACE)
        try:
            return await answer
        finally:
            timer.cancel()

    async def pause(self, seconds: float) -> bool:
        """Wait before asking again; False, at once, when there is no time for that."""
        if self.left <= seconds:
            return False
        await asyncio.sleep(seconds)
        return True


def _give_up(answer: asyncio.Future[T], *grace: float) -> None:
    """Where this process is too busy to look at the answer, time passes that is not Redis's: so the sockets are looked
    at once more, and again, before it is given up."""
    if answer.done():
        return
    if grace:
        asyncio.get_running_loop().call_later(grace[0], _give_up, answer, *grace[1:])
    else:
        answer.set_exception(CacheUnavailable("it is too slow"))


class LatencyGuard:
    """Whether Redis is quick enough to be asked at all. Pure, but for the clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: deque[float] = deque(maxlen=_ANSWERS)
        self._rest = _RESTS[0]
        self._rests_until = float("-inf")

    @property
    def resting(self) -> bool:
        """Whether nobody should ask."""
        return self._clock() < self._rests_until

    def answered(self, seconds: float, names: int) -> None:
        """Redis has answered in so many seconds what it was asked about so many names."""
        if names > _NAMES:
            return
        self._seconds.append(seconds)
        if len(self._seconds) == _ANSWERS and min(self._seconds) > _SLOW:
            self._pause()
        else:
            self._rest = _RESTS[0]

    def missed(self) -> None:
        """It has not answered in time."""
        self._pause()

    def _pause(self) -> None:
        self._rests_until = self._clock() + self._rest
        self._rest = min(2 * self._rest, _RESTS[1])
