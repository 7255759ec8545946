"""How far a replica is behind. Pure.

Time is measured by what the primary had written when: a replica that is at a place in the log is as old as the first
moment at which the primary was seen further. A replica's own clock says nothing when its connection to the primary is
gone, and too much while nothing is written.
"""

from collections import deque
from typing import Final, NamedTuple

# Samples that are kept: with one a second an hour.
_SAMPLES: Final = 3600


class Lag(NamedTuple):
    """Behind the primary by."""

    seconds: float
    bytes: int


class History:
    """What the primary had written, and when."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)

    def note(self, at: float, lsn: int) -> None:
        """The primary was at this place at this time (seconds of a clock that does not jump)."""
        if self._samples and lsn < self._samples[-1][1]:
            self._samples.clear()  # another primary, which branched off before
        if not self._samples or lsn > self._samples[-1][1]:
            self._samples.append((at, lsn))

    def lag(self, now: float, lsn: int) -> Lag:
        """Of a replica that has replayed up to this place. Without a known primary: none."""
        if not self._samples or lsn >= self._samples[-1][1]:
            return Lag(0.0, 0)
        first = next(at for at, written in self._samples if written > lsn)
        return Lag(now - first, self._samples[-1][1] - lsn)
