"""Histories of writes and of reads through caches, and how stale the reads were. All times are of one clock."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

# The version of a record that does not exist.
ABSENT: Final = 0


class Operation(NamedTuple):
    """A write or a read of a version, between two times."""

    version: int
    started: float
    ended: float


@dataclass
class RecordHistory:
    """The history of one record, which does not exist at first. Its writes do not overlap."""

    writes: list[Operation] = field(default_factory=lambda: [Operation(ABSENT, 0.0, 0.0)])
    reads: list[Operation] = field(default_factory=list)

    def staleness(self, read: Operation) -> float:
        """For how many seconds the version had certainly been replaced when the read started."""
        candidates = [
            max(0.0, read.started - self.writes[at + 1].ended) if at + 1 < len(self.writes) else 0.0
            for at, write in enumerate(self.writes)
            if write.version == read.version and write.started <= read.ended
        ]
        assert candidates, f"version {read.version} had not been written"
        return min(candidates)


class History:
    """The histories of records, by number."""

    def __init__(self) -> None:
        self.records: defaultdict[int, RecordHistory] = defaultdict(RecordHistory)

    @property
    def read_count(self) -> int:
        """The number of reads."""
        return sum(len(record.reads) for record in self.records.values())

    @property
    def write_count(self) -> int:
        """The number of writes."""
        return sum(len(record.writes) - 1 for record in self.records.values())

    def max_staleness(self) -> float:
        """The staleness of the most stale read, in seconds."""
        return max(record.staleness(read) for record in self.records.values() for read in record.reads)

    def max_staleness_so_far(self) -> float:
        """Like `max_staleness`, during the recording: without reads of writes that have not ended."""
        staleness = (
            record.staleness(read)
            for record in self.records.values()
            for read in record.reads
            if any(write.version == read.version for write in record.writes)
        )
        return max(staleness, default=0.0)
