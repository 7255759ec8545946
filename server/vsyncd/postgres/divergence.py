"""Which servers are no replicas of the primary. Pure.

What a replica has replayed, its primary has written before. A server that is further than the primary, or on a later
timeline, got there on another branch of the log: the primary's predecessor is gone and had more, say. So did one that
takes writes itself and is not the primary: somebody has promoted it. Neither comes back by itself, or sees a new write.

A server is told by the time of its start, which no two share to the microsecond, and which is another one when it was
rebuilt. A finding stands for as long as both have not been started anew: once the primary has written more, nothing
shows any longer that the two differ. Without a known primary nobody is on another branch.
"""

from typing import NamedTuple

from vsyncd.postgres.consistency import WalPosition


class ServerPosition(NamedTuple):
    """Where a server, which was started at `began`, was found: a replica replays up to there, another one may have
    written up to there."""

    began: float
    in_recovery: bool
    position: WalPosition


class DivergenceDetector:
    """The primary's, and the servers that were found on others."""

    def __init__(self) -> None:
        self._primary: ServerPosition | None = None
        self._asked_at = float("-inf")
        self._began = 0.0
        self._elsewhere: set[float] = set()

    def note(self, asked_at: float, primary: ServerPosition) -> None:
        """The primary said so when it was asked at this time (seconds of a clock that does not jump), or later."""
        if primary.began != self._began:
            self._elsewhere.clear()
            self._began = primary.began
        self._primary = primary
        self._asked_at = asked_at

    def lost(self) -> None:
        """There is no primary that is known."""
        self._primary = None

    def judge(self, seen_at: float, place: ServerPosition) -> None:
        """Another server had said this by then. It counts once the primary was asked later."""
        if self._primary is not None and seen_at <= self._asked_at and _differ(self._primary, place):
            self._elsewhere.add(place.began)

    def diverged(self, began: float) -> bool:
        """Whether the server that was started then is known to be none of the primary's."""
        return self._primary is not None and began in self._elsewhere


def _differ(primary: ServerPosition, other: ServerPosition) -> bool:
    if primary.began == other.began:
        return False  # it is the primary, or was not yet
    if not other.in_recovery:
        return True
    return other.position.timeline > primary.position.timeline or other.position.lsn > primary.position.lsn
