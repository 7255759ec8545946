"""Rates of growing counts."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Final

_MIN_INTERVAL_S: Final = 5.0
WINDOW_S: Final = 120.0


class Rates:
    """Rates of counts per second in the last WINDOW_S, from the values that were observed."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._observed: dict[Hashable, list[tuple[float, int]]] = {}

    def observe(self, counts: Mapping[Hashable, int]) -> None:
        """Observes the counts, and forgets those that are not among them."""
        now = self._clock()
        self._observed = {key: self._with(self._observed.get(key, []), now, count) for key, count in counts.items()}

    def per_second(self, key: Hashable) -> float | None:
        """Returns the rate of a count, or None if it was not observed for long enough."""
        observed = self._observed.get(key, [])
        if not observed or (elapsed := observed[-1][0] - observed[0][0]) < _MIN_INTERVAL_S:
            return None
        return (observed[-1][1] - observed[0][1]) / elapsed

    @staticmethod
    def _with(observed: list[tuple[float, int]], now: float, count: int) -> list[tuple[float, int]]:
        if observed and count < observed[-1][1]:
            return [(now, count)]  # it was reset
        kept = [each for each in observed if now - each[0] <= WINDOW_S]
        # A value that soon follows another one replaces it, so that few are kept.
        if len(kept) > 1 and now - kept[-2][0] < _MIN_INTERVAL_S:
            kept.pop()
        return [*kept, (now, count)]
