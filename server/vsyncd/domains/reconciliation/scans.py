"""RecomputeVsync: a VSync by a full scan, beside the one that is kept, in one snapshot."""

from datetime import datetime
from typing import Final, NamedTuple

from vsyncd.domains.reconciliation.records import Vsync
from vsyncd.domains.reconciliation.repository import kept_vsyncs
from vsyncd.domains.reconciliation.snapshots import ReadSnapshot, ReadSnapshots
from vsyncd.postgres.queries import queries

# The version from which PostgreSQL reads bytes as numbers.
_READS_NUMBERS: Final = 18_00_00


class Scan(NamedTuple):
    """What a scan found, and what is kept."""

    vsync: Vsync
    kept: Vsync
    at: datetime


class Scanner:
    """Scans, a bounded number at a time."""

    def __init__(self, snapshots: ReadSnapshots, *, schema: str) -> None:
        self._snapshots = snapshots
        self._queries = queries("vsyncd.domains.reconciliation", schema)

    async def scan(self, ispb: str, key_type: int) -> Scan:
        """Both VSyncs of one snapshot."""

        async def work(snapshot: ReadSnapshot) -> Scan:
            [kept] = await kept_vsyncs(snapshot, self._queries, ispb, [key_type])
            by_numbers = snapshot.connection.info.server_version >= _READS_NUMBERS
            query = self._queries["recompute" if by_numbers else "recompute_by_bits"]
            row = await snapshot.one(query, {"ispb": ispb, "key_type": key_type})
            if row is None:
                raise AssertionError("an aggregate gives a row")
            return Scan(Vsync(ispb, key_type, *row), kept, snapshot.at)

        async with self._snapshots.place():
            return await self._snapshots.read("recompute", work)
