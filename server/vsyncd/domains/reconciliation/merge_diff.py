"""Computes the difference of two sets of CIDs, both read in ascending order, in constant memory."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple


class Difference(NamedTuple):
    """Differences in ascending order, all of them greater than those found before."""

    missing_here: list[bytes]
    missing_there: list[bytes]


class MergeDiff:
    """Compares our blocks, which the caller passes one by one, with `theirs`. No block is empty."""

    def __init__(self, theirs: Iterator[list[bytes]]) -> None:
        self._theirs = theirs
        self._pending: list[bytes] = []

    def with_block(self, ours: list[bytes]) -> Iterator[Difference]:
        """Compares our next block with all of their CIDs up to its last CID."""
        while ours and self._fill():
            # Up to the bound both sets are known.
            bound = min(ours[-1], self._pending[-1])
            here, ours = _cut(ours, bound)
            there, self._pending = _cut(self._pending, bound)
            yield _difference(here, there)
        if ours:
            yield Difference([], ours)

    def rest(self) -> Iterator[Difference]:
        """Yields their CIDs after our last block."""
        while self._fill():
            block, self._pending = self._pending, []
            yield Difference(block, [])

    def _fill(self) -> bool:
        if not self._pending:
            self._pending = next(self._theirs, [])
        return bool(self._pending)


def _cut(cids: list[bytes], bound: bytes) -> tuple[list[bytes], list[bytes]]:
    at = bisect_right(cids, bound)
    return cids[:at], cids[at:]


def _difference(ours: list[bytes], theirs: list[bytes]) -> Difference:
    if ours == theirs:
        return Difference([], [])
    here, there = set(ours), set(theirs)
    return Difference([cid for cid in theirs if cid not in here], [cid for cid in ours if cid not in there])
