"""Detects servers that are not replicas of the current primary. Pure.

A replica can only have replayed what its primary has written. A server that is ahead of the primary, or on a later
timeline, has diverged: it replicated from a previous primary that had more, for example. A server that takes writes and
is not the primary has diverged as well: it was promoted. A diverged server neither returns by itself nor receives new
writes.

A server is identified by its start time, which has microsecond resolution and changes when the server is rebuilt. A
server stays diverged until it or the primary is restarted: as soon as the primary has written more, positions alone no
longer show the difference. While no primary is known, no server counts as diverged.
"""

from typing import NamedTuple

from vsyncd.postgres.consistency import WalPosition


class ServerPosition(NamedTuple):
    """The position up to which a replica has replayed, or up to which another server may have written.

    `started_at` is the server's start time in seconds since the Unix epoch.
    """

    started_at: float
    in_recovery: bool
    position: WalPosition


class DivergenceDetector:
    """Compares servers with the primary, and remembers which have diverged."""

    def __init__(self) -> None:
        self._primary: ServerPosition | None = None
        self._asked_at = float("-inf")
        self._primary_started_at = 0.0
        self._diverged: set[float] = set()

    def record_primary(self, asked_at: float, primary: ServerPosition) -> None:
        """Records the answer of the primary to a query that was sent at `asked_at` (seconds, monotonic)."""
        if primary.started_at != self._primary_started_at:
            self._diverged.clear()
            self._primary_started_at = primary.started_at
        self._primary = primary
        self._asked_at = asked_at

    def forget_primary(self) -> None:
        """Records that no primary is known."""
        self._primary = None

    def compare(self, observed_at: float, server: ServerPosition) -> None:
        """Compares a server's position with the primary's, if the primary was asked after `observed_at`."""
        if self._primary is not None and observed_at <= self._asked_at and _differ(self._primary, server):
            self._diverged.add(server.started_at)

    def has_diverged(self, started_at: float) -> bool:
        """Whether the server with this start time is known not to be a replica of the primary."""
        return self._primary is not None and started_at in self._diverged


def _differ(primary: ServerPosition, other: ServerPosition) -> bool:
    if primary.started_at == other.started_at:
        return False  # it is the primary, possibly observed before its promotion
    if not other.in_recovery:
        return True
    return other.position.timeline > primary.position.timeline or other.position.lsn > primary.position.lsn
