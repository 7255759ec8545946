"""DiffCidSet without the wire: an upload sorted on disk, then compared with ours as the index gives them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Final, NamedTuple

import psycopg
from psycopg.rows import TupleRow
from vsync.cid_codec import CID_BYTES, xor_of

from vsyncd.domains.reconciliation.external_sort import ExternalSort
from vsyncd.domains.reconciliation.merge_diff import Difference, MergeDiff
from vsyncd.domains.reconciliation.records import ADDED, REMOVED, Group, Vsync
from vsyncd.domains.reconciliation.repository import kept_vsyncs
from vsyncd.domains.reconciliation.snapshots import ReadSnapshot, ReadSnapshots
from vsyncd.observability.metrics import QUERIES
from vsyncd.postgres.queries import Query, queries
from vsyncd.resilience.tasks import in_thread

BLOCK: Final = 10_000
# The numbers of vsync.v1.DiffKind.
MISSING_HERE: Final = 1
MISSING_THERE: Final = 2
REMOVED_SINCE: Final = 3
ADDED_SINCE: Final = 4


class Part(NamedTuple):
    """Differences of one kind, ascending, packed."""

    kind: int
    cids: bytes


class Summary(NamedTuple):
    """What both sides were, and how many differences of each kind there were."""

    ours: Vsync
    theirs: Vsync
    duplicates: int
    counts: dict[int, int]
    differences: bytes
    at: datetime
    kept_agrees: bool


class Comparer:
    """Compares uploads with the CIDs of a group."""

    def __init__(self, snapshots: ReadSnapshots, *, schema: str) -> None:
        self._snapshots = snapshots
        self._queries = queries("vsyncd.domains.reconciliation", schema)

    def compare(self, group: Group, theirs: ExternalSort, since: datetime) -> AsyncGenerator[Part | Summary]:
        """The differences, and a summary at the end. The snapshot is opened now: the upload has ended."""
        return self._snapshots.stream("diff", lambda snapshot: self._compare(snapshot, group, theirs, since))

    async def _compare(
        self, snapshot: ReadSnapshot, group: Group, theirs: ExternalSort, since: datetime
    ) -> AsyncGenerator[Part | Summary]:
        counts = dict.fromkeys((MISSING_HERE, MISSING_THERE, REMOVED_SINCE, ADDED_SINCE), 0)
        ours = _Total()
        differing = 0
        [kept] = await kept_vsyncs(snapshot, self._queries, group.ispb, [group.key_type])
        changes = _Changes(snapshot, group, since, self._queries["changed_since"])
        async with aclosing(self._gathered(snapshot, group, theirs, ours)) as found:
            async for difference in found:
                for part in await changes.parts(difference):
                    counts[part.kind] += len(part.cids) // CID_BYTES
                    differing ^= xor_of(part.cids)
                    yield part
        yield Summary(
            ours=_vsync(group, ours.xor, ours.count),
            theirs=_vsync(group, theirs.xor, theirs.distinct),
            duplicates=theirs.received - theirs.distinct,
            counts=counts,
            differences=differing.to_bytes(CID_BYTES),
            at=snapshot.at,
            kept_agrees=(kept.vsync, kept.size) == (ours.xor.to_bytes(CID_BYTES), ours.count),
        )

    async def _gathered(
        self, snapshot: ReadSnapshot, group: Group, theirs: ExternalSort, ours: "_Total"
    ) -> AsyncGenerator[Difference]:
        """The differences, so many at a time that asking for their events pays."""
        here: list[bytes] = []
        there: list[bytes] = []
        async with aclosing(self._differences(snapshot, group, theirs, ours)) as found:
            async for difference in found:
                here += difference.missing_here
                there += difference.missing_there
                if len(here) + len(there) >= BLOCK:
                    yield Difference(here, there)
                    here, there = [], []
        yield Difference(here, there)

    async def _differences(
        self, snapshot: ReadSnapshot, group: Group, theirs: ExternalSort, ours: "_Total"
    ) -> AsyncGenerator[Difference]:
        comparison = MergeDiff(theirs.blocks())
        async with aclosing(self._ours(snapshot, group)) as blocks:
            async for block in blocks:
                ours.add(block)
                found = comparison.with_block(block)
                while (difference := await in_thread(next, found, None)) is not None:
                    yield difference
        rest = comparison.rest()
        while (difference := await in_thread(next, rest, None)) is not None:
            yield difference

    async def _ours(self, snapshot: ReadSnapshot, group: Group) -> AsyncGenerator[list[bytes]]:
        cursor: psycopg.AsyncServerCursor[TupleRow] = psycopg.AsyncServerCursor(snapshot.connection, "ours")
        query = self._queries["cids_in_order"]
        try:
            with QUERIES.timed(query.name):
                await cursor.execute(query.sql, group._asdict(), binary=True)
            while rows := await cursor.fetchmany(BLOCK):
                yield [row[0] for row in rows]
        except BaseException:
            # Nothing is asked of the server any more: gRPC may cancel a call more than once.
            await snapshot.connection.close()
            raise
        finally:
            await cursor.close()


class _Total:
    """The VSync of what was read."""

    def __init__(self) -> None:
        self.count = 0
        self.xor = 0

    def add(self, cids: list[bytes]) -> None:
        self.count += len(cids)
        self.xor ^= xor_of(b"".join(cids))


class _Changes:
    """Tells the differences that our own events explain from those that nobody knows of."""

    def __init__(self, snapshot: ReadSnapshot, group: Group, since: datetime, query: Query) -> None:
        self._snapshot = snapshot
        self._parameters = {**group._asdict(), "since": since}
        self._query = query

    async def parts(self, difference: Difference) -> list[Part]:
        """The difference by kinds, without those that it has not."""
        here, removed = await self._split(difference.missing_here, REMOVED)
        there, added = await self._split(difference.missing_there, ADDED)
        kinds = ((MISSING_HERE, here), (MISSING_THERE, there), (REMOVED_SINCE, removed), (ADDED_SINCE, added))
        return [
            Part(kind, b"".join(cids[at : at + BLOCK])) for kind, cids in kinds for at in range(0, len(cids), BLOCK)
        ]

    async def _split(self, cids: list[bytes], change: int) -> tuple[list[bytes], list[bytes]]:
        changed: set[bytes] = set()
        for at in range(0, len(cids), BLOCK):
            parameters = {**self._parameters, "cids": cids[at : at + BLOCK], "change": change}
            changed |= {row[0] for row in await self._snapshot.all(self._query, parameters)}
        return [cid for cid in cids if cid not in changed], [cid for cid in cids if cid in changed]


def _vsync(group: Group, xor: int, count: int) -> Vsync:
    return Vsync(group.ispb, group.key_type, xor.to_bytes(CID_BYTES), count)
