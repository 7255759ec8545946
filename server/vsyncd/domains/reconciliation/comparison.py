"""Compares an uploaded set of CIDs, sorted on disk, with the stored CIDs, which the index returns in order."""

from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from datetime import datetime
from typing import Final, NamedTuple

from vsync.cid_codec import CID_BYTES, xor_of

from vsyncd.core.scope import Scope
from vsyncd.domains.reconciliation.external_sort import ExternalSort
from vsyncd.domains.reconciliation.records import ADDED, REMOVED, Group, Vsync
from vsyncd.domains.reconciliation.repository import select_vsyncs
from vsyncd.postgres.queries import Query, queries
from vsyncd.postgres.snapshots import Snapshot, SnapshotReader
from vsyncd.resilience.tasks import in_thread

BLOCK_CIDS: Final = 10_000
# The numbers of vsync.v1.DiffKind.
MISSING_HERE: Final = 1
MISSING_THERE: Final = 2
REMOVED_SINCE: Final = 3
ADDED_SINCE: Final = 4


class DifferenceBlock(NamedTuple):
    """Differences of one kind: packed CIDs in ascending order."""

    kind: int
    cids: bytes


class ComparisonSummary(NamedTuple):
    """The VSyncs of both sets, the number of differences of each kind and the XOR of all differences.

    `kept_agrees`: the stored CIDs have the VSync that is kept.
    """

    ours: Vsync
    theirs: Vsync
    duplicates: int
    counts: dict[int, int]
    differences: bytes
    snapshot_time: datetime
    kept_agrees: bool


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


class Comparer:
    """Compares uploads with the CIDs of a group."""

    def __init__(self, snapshots: SnapshotReader, *, schema: str) -> None:
        self._snapshots = snapshots
        self._queries = queries("vsyncd.domains.reconciliation", schema)

    def compare(
        self, group: Group, theirs: ExternalSort, since: datetime, *, scope: Scope
    ) -> AsyncGenerator[DifferenceBlock | ComparisonSummary]:
        """Yields the differences and finally a summary.

        Differences that the events since the time `since` explain are reported as REMOVED_SINCE and ADDED_SINCE. Raises
        IspbDenied.
        """
        scope.check(group.ispb)
        return self._snapshots.stream("diff", lambda snapshot: self._compare(snapshot, group, theirs, since))

    async def _compare(
        self, snapshot: Snapshot, group: Group, theirs: ExternalSort, since: datetime
    ) -> AsyncGenerator[DifferenceBlock | ComparisonSummary]:
        counts = dict.fromkeys((MISSING_HERE, MISSING_THERE, REMOVED_SINCE, ADDED_SINCE), 0)
        ours = _VsyncSum()
        differences_xor = 0
        [kept] = await select_vsyncs(snapshot, self._queries, group.ispb, [group.key_type])
        classifier = _Classifier(snapshot, group, since, self._queries["changed_since"])
        async with aclosing(self._difference_blocks(snapshot, group, theirs, ours)) as differences:
            async for difference in differences:
                for block in await classifier.classify(difference):
                    counts[block.kind] += len(block.cids) // CID_BYTES
                    differences_xor ^= xor_of(block.cids)
                    yield block
        our_vsync = Vsync(*group, ours.xor.to_bytes(CID_BYTES), ours.count)
        yield ComparisonSummary(
            ours=our_vsync,
            theirs=Vsync(*group, theirs.xor.to_bytes(CID_BYTES), theirs.distinct),
            duplicates=theirs.received - theirs.distinct,
            counts=counts,
            differences=differences_xor.to_bytes(CID_BYTES),
            snapshot_time=snapshot.time,
            kept_agrees=kept == our_vsync,
        )

    async def _difference_blocks(
        self, snapshot: Snapshot, group: Group, theirs: ExternalSort, ours: "_VsyncSum"
    ) -> AsyncGenerator[Difference]:
        """Yields the differences in blocks that are large enough for a query of their events."""
        missing_here: list[bytes] = []
        missing_there: list[bytes] = []
        async with aclosing(self._differences(snapshot, group, theirs, ours)) as differences:
            async for difference in differences:
                missing_here += difference.missing_here
                missing_there += difference.missing_there
                if len(missing_here) + len(missing_there) >= BLOCK_CIDS:
                    yield Difference(missing_here, missing_there)
                    missing_here, missing_there = [], []
        yield Difference(missing_here, missing_there)

    async def _differences(
        self, snapshot: Snapshot, group: Group, theirs: ExternalSort, ours: "_VsyncSum"
    ) -> AsyncGenerator[Difference]:
        merge = MergeDiff(theirs.blocks())
        rows = snapshot.stream(self._queries["cids_in_order"], group._asdict(), block_rows=BLOCK_CIDS)
        async with aclosing(rows):
            async for block in rows:
                cids = [row[0] for row in block]
                ours.add(cids)
                found = merge.with_block(cids)
                while (difference := await in_thread(next, found, None)) is not None:
                    yield difference
        rest = merge.rest()
        while (difference := await in_thread(next, rest, None)) is not None:
            yield difference


class _VsyncSum:
    def __init__(self) -> None:
        self.count = 0
        self.xor = 0

    def add(self, cids: list[bytes]) -> None:
        self.count += len(cids)
        self.xor ^= xor_of(b"".join(cids))


class _Classifier:
    """Separates differences that events since a time explain from the other ones."""

    def __init__(self, snapshot: Snapshot, group: Group, since: datetime, query: Query) -> None:
        self._snapshot = snapshot
        self._parameters = {**group._asdict(), "since": since}
        self._query = query

    async def classify(self, difference: Difference) -> list[DifferenceBlock]:
        missing_here, removed = await self._split(difference.missing_here, REMOVED)
        missing_there, added = await self._split(difference.missing_there, ADDED)
        kinds = (
            (MISSING_HERE, missing_here),
            (MISSING_THERE, missing_there),
            (REMOVED_SINCE, removed),
            (ADDED_SINCE, added),
        )
        return [
            DifferenceBlock(kind, b"".join(cids[at : at + BLOCK_CIDS]))
            for kind, cids in kinds
            for at in range(0, len(cids), BLOCK_CIDS)
        ]

    async def _split(self, cids: list[bytes], change: int) -> tuple[list[bytes], list[bytes]]:
        """Returns the CIDs without and those with an event that explains the difference."""
        changed: set[bytes] = set()
        for at in range(0, len(cids), BLOCK_CIDS):
            parameters = {**self._parameters, "cids": cids[at : at + BLOCK_CIDS], "change": change}
            changed |= {row[0] for row in await self._snapshot.all(self._query, parameters)}
        return [cid for cid in cids if cid not in changed], [cid for cid in cids if cid in changed]


def _cut(cids: list[bytes], bound: bytes) -> tuple[list[bytes], list[bytes]]:
    at = bisect_right(cids, bound)
    return cids[:at], cids[at:]


def _difference(ours: list[bytes], theirs: list[bytes]) -> Difference:
    if ours == theirs:
        return Difference([], [])
    here, there = set(ours), set(theirs)
    return Difference([cid for cid in theirs if cid not in here], [cid for cid in ours if cid not in there])
