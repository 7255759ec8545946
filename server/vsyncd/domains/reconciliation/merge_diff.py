"""The difference of two ascending rows of CIDs, as they come: neither has to be in memory."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple


class Difference(NamedTuple):
    """What was found in one stretch of the two: ascending, and behind all that was found before."""

    missing_here: list[bytes]
    missing_there: list[bytes]


class MergeDiff:
    """Our blocks are given one after the other; `theirs` are taken as they are needed. No block is empty."""

    def __init__(self, theirs: Iterator[list[bytes]]) -> None:
        self._theirs = theirs
        self._waiting: list[bytes] = []

    def with_block(self, ours: list[bytes]) -> Iterator[Difference]:
        """Our next block against all of theirs that is not greater than its last."""
        while ours and self._fill():
            # Up to here both sides are known.
            bound = min(ours[-1], self._waiting[-1])
            here, ours = _cut(ours, bound)
            there, self._waiting = _cut(self._waiting, bound)
            yield _difference(here, there)
        if ours:
            yield Difference([], ours)

    def rest(self) -> Iterator[Difference]:
        """All that is theirs behind our last block."""
        while self._fill():
            block, self._waiting = self._waiting, []
            yield Difference(block, [])

    def _fill(self) -> bool:
        if not self._waiting:
            self._waiting = next(self._theirs, [])
        return bool(self._waiting)


def _cut(cids: list[bytes], bound: bytes) -> tuple[list[bytes], list[bytes]]:
    at = bisect_right(cids, bound)
    return cids[:at], cids[at:]


def _difference(ours: list[bytes], theirs: list[bytes]) -> Difference:
    if ours == theirs:
        return Difference([], [])
    here, there = set(ours), set(theirs)
    return Difference([cid for cid in theirs if cid not in here], [cid for cid in ours if cid not in there])
