"""Measures how far a replica is behind the primary. Pure.

The lag in seconds is the age of the first position at which the primary was seen ahead of the replica. A replica's own
clock is unreliable: it shows no lag while its connection to the primary is lost, and too much while nothing is written.

The lag is measured as of the last time that the primary was seen. While the primary is unreachable the lag is frozen:
the replica has the latest data that can be read, and reads continue there.
"""

from collections import deque
from typing import Final, NamedTuple

# One hour of one sample a second.
_MAX_SAMPLES: Final = 3600


class ReplicationLag(NamedTuple):
    """How far a replica is behind the primary."""

    seconds: float
    bytes: int


class WalHistory:
    """The primary's write positions over time. `started_at` is when monitoring began (seconds, monotonic)."""

    def __init__(self, started_at: float) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_MAX_SAMPLES)
        self._primary_seen_at = started_at

    @property
    def last_lsn(self) -> int | None:
        """The primary's position when it was last seen, or None."""
        return self._samples[-1][1] if self._samples else None

    def record(self, at: float, lsn: int) -> None:
        """Records the primary's position at a time (seconds, monotonic)."""
        self._primary_seen_at = at
        if self._samples and lsn < self._samples[-1][1]:
            self._samples.clear()  # a new primary, which branched off at an earlier position
        if not self._samples or lsn > self._samples[-1][1]:
            self._samples.append((at, lsn))

    def lag(self, observed_at: float, lsn: int, *, reported_lag: float = 0.0) -> ReplicationLag:
        """Returns the lag of a replica that was at `lsn` when it was last observed.

        `reported_lag` is for how many seconds the replica had had WAL to replay at that time. What the primary has
        written since then counts as lag. Without a known primary only `reported_lag` counts.
        """
        own_lag = max(0.0, reported_lag - max(0.0, observed_at - self._primary_seen_at))
        if not self._samples or lsn >= self._samples[-1][1]:
            return ReplicationLag(own_lag, 0)
        ahead_since = next(at for at, written in self._samples if written > lsn)
        return ReplicationLag(max(self._primary_seen_at - ahead_since, own_lag), self._samples[-1][1] - lsn)
