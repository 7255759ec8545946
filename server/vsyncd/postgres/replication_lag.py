"""How far a replica is behind. Pure.

Time is measured by what the primary had written when: a replica that is at a place in the log is as old as the first
moment at which the primary was seen further. A replica's own clock says nothing when its connection to the primary is
gone, and too much while nothing is written.

It is measured as of the last time that the primary was seen. When that is gone, a replica falls behind no further by
that it is not brought up: what it has is then what there is, and reads go on from it.
"""

from collections import deque
from typing import Final, NamedTuple

# Samples that are kept: with one a second an hour.
_SAMPLES: Final = 3600


class ReplicationLag(NamedTuple):
    """Behind the primary by."""

    seconds: float
    bytes: int


class WalHistory:
    """What the primary had written, and when. `begin` is the time from which on it is looked for."""

    def __init__(self, begin: float) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._seen_at = begin

    @property
    def written(self) -> int | None:
        """Up to where the primary had written when it was last seen; None when it never was."""
        return self._samples[-1][1] if self._samples else None

    def note(self, at: float, lsn: int) -> None:
        """The primary was at this place at this time (seconds of a clock that does not jump)."""
        self._seen_at = at
        if self._samples and lsn < self._samples[-1][1]:
            self._samples.clear()  # another primary, which branched off before
        if not self._samples or lsn > self._samples[-1][1]:
            self._samples.append((at, lsn))

    def lag(self, now: float, lsn: int, *, own: float = 0.0) -> ReplicationLag:
        """Of a replica that had replayed up to this place by `now`, and said that it had had more to replay for `own`
        seconds. Of one that was not heard of since, all that the primary has written meanwhile counts.

        Without a known primary: none.
        """
        own = max(0.0, own - max(0.0, now - self._seen_at))
        if not self._samples or lsn >= self._samples[-1][1]:
            return ReplicationLag(own, 0)
        first = next(at for at, written in self._samples if written > lsn)
        return ReplicationLag(max(self._seen_at - first, own), self._samples[-1][1] - lsn)
