"""The status of servers: how far replicas are behind the primary, and which of them are no replicas of it."""

import time
from collections import deque
from typing import Final, NamedTuple

from vsyncd.postgres.consistency import WalPosition

# One hour of one sample a second.
_MAX_SAMPLES: Final = 3600
# Age after which a status is no longer used.
_MAX_STATUS_AGE_S: Final = 10.0


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


class ServerStatus(NamedTuple):
    """A server's status at `observed_at` (seconds, monotonic).

    `lag` is as of then. `reported_lag` is for how many seconds the server had had WAL to replay. `started_at` is in
    seconds since the Unix epoch. `diverged`: the server is not a replica of the primary (see DivergenceDetector).
    """

    observed_at: float
    in_recovery: bool
    read_only: bool
    position: WalPosition
    lag: ReplicationLag
    reported_lag: float
    started_at: float
    diverged: bool

    @property
    def is_fresh(self) -> bool:
        """Whether it is recent enough to be used."""
        return time.monotonic() - self.observed_at < _MAX_STATUS_AGE_S


class DivergenceDetector:
    """Compares servers with the primary, and remembers which have diverged."""

    def __init__(self) -> None:
        self._primary: WalPosition | None = None
        self._asked_at = float("-inf")
        self._primary_started_at = 0.0
        self._diverged: set[float] = set()

    def record_primary(self, asked_at: float, started_at: float, written: WalPosition) -> None:
        """Records up to where the primary may have written, as it answered a query that was sent at `asked_at`.

        `asked_at` is in seconds (monotonic). `started_at` is the primary's start time in seconds since the Unix epoch.
        """
        if started_at != self._primary_started_at:
            self._diverged.clear()
            self._primary_started_at = started_at
        self._primary = written
        self._asked_at = asked_at

    def forget_primary(self) -> None:
        self._primary = None

    def compare(self, server: ServerStatus) -> None:
        """Compares a server's status with the primary's position, if the primary was asked afterwards."""
        primary, position = self._primary, server.position
        if primary is None or server.observed_at > self._asked_at:
            return
        if server.started_at == self._primary_started_at:
            return  # it is the primary, possibly observed before its promotion
        if not server.in_recovery or position.timeline > primary.timeline or position.lsn > primary.lsn:
            self._diverged.add(server.started_at)

    def has_diverged(self, started_at: float) -> bool:
        """Whether the server with this start time is known not to be a replica of the primary."""
        return self._primary is not None and started_at in self._diverged
