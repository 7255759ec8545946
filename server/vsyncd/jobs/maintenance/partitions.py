"""Partitions as times: how far they reach, and which are past their retention. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Self

PARENTS: Final = ("audit_logs", "cid_events", "request_ids")
MARK: Final = "vsyncd: past its retention, to be dropped: "
# A request id holds for seven days at least (docs/api.md); the eighth is for clocks that differ.
REQUEST_IDS: Final = timedelta(days=8)


class Partition(NamedTuple):
    """A partition of one of PARENTS, and the time that its rows are of. `is_detaching`: a DETACH was cut off;
    `is_detached`: it was one until we detached it to drop it."""

    parent: str
    name: str
    begins: datetime
    ends: datetime
    is_detaching: bool = False
    is_detached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The partitions that there were `at` a time of the database's clock."""

    at: datetime
    partitions: Sequence[Partition]

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]], *, at: datetime) -> Self:
        """From rows of parent, name, begins, ends, is_detaching."""
        return cls(at=at, partitions=tuple(Partition(*row) for row in rows))

    def made_until(self) -> dict[str, datetime]:
        """Until when rows of each parent have a partition without a gap; `at` when they have none now."""
        reach = dict.fromkeys(PARENTS, self.at)
        for partition in sorted(self.partitions, key=lambda partition: partition.begins):
            if partition.begins <= reach.get(partition.parent, datetime.min.replace(tzinfo=UTC)):
                reach[partition.parent] = max(reach[partition.parent], partition.ends)
        return reach

    def expired(self, keep: Mapping[str, timedelta | None]) -> list[Partition]:
        """The partitions whose last row is older than its parent's retention (None: for good), the oldest first."""
        return sorted(
            (
                partition
                for partition in self.partitions
                if (age := keep.get(partition.parent)) is not None and partition.ends <= self.at - age
            ),
            key=lambda partition: (partition.ends, partition.parent),
        )


def mark_of(partition: Partition) -> str:
    """The comment on a partition that is to be dropped: once it is detached, all that is known of its rows' time."""
    return f"{MARK}{partition.parent} {partition.begins.isoformat()} {partition.ends.isoformat()}"


def marked(name: str, comment: str) -> Partition | None:
    """What was detached to be dropped, from its comment; None when that is not ours whole."""
    match comment.removeprefix(MARK).split(" "):
        case [parent, begins, ends] if comment.startswith(MARK) and parent in PARENTS:
            try:
                times = datetime.fromisoformat(begins), datetime.fromisoformat(ends)
            except ValueError:
                return None
            return Partition(parent, name, *times, is_detached=True)
    return None


def retention(*, audit_days: int, event_days: int) -> dict[str, timedelta | None]:
    """How long each parent's rows are kept; 0 days: for good."""

    def days(number: int) -> timedelta | None:
        return timedelta(days=number) if number else None

    return {"audit_logs": days(audit_days), "cid_events": days(event_days), "request_ids": REQUEST_IDS}
