"""Not every event of a kind is logged: an outage under load would write thousands of equal lines a second."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

# Seconds.
_WINDOW: Final = 1.0


@dataclass(slots=True)
class _Window:
    begin: float
    seen: int = 0


class Sample:
    """The first `most` events of each kind in a second; the others are counted.

    Kinds are few and not the callers' to make up: each is remembered for good.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._windows: dict[Hashable, _Window] = {}

    def take(self, kind: Hashable) -> int | None:
        """None when this event is left out; else how many of its kind were, since one was taken."""
        now = self._clock()
        window = self._windows.setdefault(kind, _Window(now))
        left_out = 0
        if now - window.begin >= _WINDOW:
            left_out = max(0, window.seen - self._most)
            window.begin, window.seen = now, 0
        window.seen += 1
        return left_out if window.seen <= self._most else None
