"""Counting that costs next to nothing: plain numbers of one event loop, made into metrics when somebody asks.

prometheus_client takes a lock for each number, and walks through a histogram's buckets: for what is counted several
times a call that is a few percent of the call.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

# Seconds. From a read that the cache of PostgreSQL answers to the longest deadline that is usual.
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)


class Histogram:
    """How often values fell between bounds, and their sum. A value at a bound counts below it, as Prometheus has it."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound as Prometheus writes it, and how many values were at most that; the last one is +Inf."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return [(bound, float(count)) for bound, count in zip(bounds, accumulate(self._counts), strict=True)]
