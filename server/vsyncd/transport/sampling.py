"""Limits the number of similar log events: an outage under load would log thousands per second."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

_WINDOW_S: Final = 1.0


@dataclass(slots=True)
class _Window:
    begin: float
    seen: int = 0


class Sample:
    """Accepts the first `max_per_second` events of each kind in a second, and counts the others.

    There must be few kinds, not chosen by callers: each kind is stored forever.
    """

    def __init__(self, max_per_second: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_per_second = max_per_second
        self._clock = clock
        self._windows: dict[Hashable, _Window] = {}

    def take(self, kind: Hashable) -> int | None:
        """Returns None if this event must be omitted, or else how many were omitted since the last accepted one."""
        now = self._clock()
        window = self._windows.setdefault(kind, _Window(now))
        left_out = 0
        if now - window.begin >= _WINDOW_S:
            left_out = max(0, window.seen - self._max_per_second)
            window.begin, window.seen = now, 0
        window.seen += 1
        return left_out if window.seen <= self._max_per_second else None
