"""The registered partitioned tables and their partitions: how far they reach, and which are past retention.

Metrics, health and alerts report how far they reach long before a write fails.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Self

from prometheus_client import Gauge

from vsyncd.jobs.runner import JobFailed
from vsyncd.observability.metrics import REGISTRY
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries

MARK: Final = "vsyncd: past its retention, to be dropped: "
# Partitions are made at least eight weeks ahead, every six hours. Reaching this limit takes weeks of failures.
_MIN_AHEAD: Final = timedelta(days=14)
# Logical replication of some tables to a copy of the schema leaves the registry empty.
_NO_TABLES: Final = "no partitioned table is registered: copy the rows of partitioned_tables, then run vsyncd maintain"

_UNTIL: Final = Gauge(
    "vsyncd_partitions_until_timestamp_seconds",
    "Time up to which a table has partitions without a gap.",
    ["table"],
    registry=REGISTRY,
)
_EXPIRED: Final = Gauge(
    "vsyncd_partitions_expired",
    "Partitions of a table past their retention that are not dropped yet.",
    ["table"],
    registry=REGISTRY,
)


class Partition(NamedTuple):
    """A partition of a table, and the time range of its rows.

    `is_detaching`: a DETACH was interrupted. `is_detached`: vsyncd has detached it in order to drop it.
    """

    parent: str
    name: str
    begins: datetime
    ends: datetime
    is_detaching: bool = False
    is_detached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSnapshot:
    """The registered tables with their retention (None: forever), and their partitions, at a time of the database."""

    at: datetime
    retention: Mapping[str, timedelta | None]
    partitions: Sequence[Partition]

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[Any]], settings: Mapping[str, int]) -> Self:
        """Reads rows of the query `partitions`. `settings` has the retention settings in days, 0 for forever."""
        return cls(
            at=rows[0][0],
            retention={row[1]: _retention(row[2], row[3], settings) for row in rows},
            partitions=tuple(Partition(row[1], *row[4:8]) for row in rows if row[4] is not None),
        )

    def complete_until(self) -> dict[str, datetime]:
        """Returns until when each table has partitions without a gap; `at` if it has none for new rows."""
        until = dict.fromkeys(self.retention, self.at)
        for partition in sorted(self.partitions, key=lambda partition: partition.begins):
            if partition.begins <= until[partition.parent]:
                until[partition.parent] = max(until[partition.parent], partition.ends)
        return until

    def expired(self, detached: Iterable[Partition] = ()) -> list[Partition]:
        """Returns the partitions, and those `detached`, whose last row is past the table's retention, oldest first."""
        return sorted(
            (
                partition
                for partition in (*self.partitions, *detached)
                if (age := self.retention.get(partition.parent)) is not None and partition.ends <= self.at - age
            ),
            key=lambda partition: (partition.ends, partition.parent),
        )


def _retention(setting: str | None, days: int | None, settings: Mapping[str, int]) -> timedelta | None:
    """A setting that this version does not know belongs to a newer one: nothing is dropped."""
    kept = days if setting is None else settings.get(setting)
    return timedelta(days=kept) if kept else None


def drop_mark(partition: Partition) -> str:
    """Returns the comment on a partition to be dropped. It has the time range, which a detached table has lost."""
    return f"{MARK}{partition.parent} {partition.begins.isoformat()} {partition.ends.isoformat()}"


def parse_drop_mark(name: str, comment: str) -> Partition | None:
    """Returns the partition that a table with such a comment was, or None if the comment is not of that form."""
    match comment.removeprefix(MARK).split(" "):
        case [parent, begins, ends] if comment.startswith(MARK):
            try:
                times = datetime.fromisoformat(begins), datetime.fromisoformat(ends)
            except ValueError:
                return None
            return Partition(parent, name, *times, is_detached=True)
    return None


class TableReach(NamedTuple):
    """Until when a table has partitions without a gap, and how many of them are past their retention."""

    until: datetime
    expired: int


class PartitionWatch:
    """Reads the registered tables and their partitions. `settings` has the retention settings in days.

    `tables` are the registered tables by name, as last read.
    """

    def __init__(self, database: Database, settings: Mapping[str, int]) -> None:
        self._database = database
        self._settings = settings
        self._query = queries("vsyncd.jobs.maintenance", database.schema)["partitions"]
        self._is_empty = False
        self.tables: dict[str, TableReach] = {}

    async def snapshot(self) -> PartitionSnapshot:
        """Reads the partitions and updates metrics and health.

        Raises ServiceError, and JobFailed if no table is registered.
        """
        rows = await self._database.read(lambda session: session.all(self._query))
        self._is_empty = not rows
        if self._is_empty:
            raise JobFailed(_NO_TABLES)
        snapshot = PartitionSnapshot.from_rows(rows, self._settings)
        expired = [partition.parent for partition in snapshot.expired()]
        self.tables = {
            table: TableReach(until, expired.count(table)) for table, until in snapshot.complete_until().items()
        }
        for table, reach in self.tables.items():
            _UNTIL.labels(table).set(reach.until.timestamp())
            _EXPIRED.labels(table).set(reach.expired)
        return snapshot

    @property
    def _until(self) -> datetime | None:
        return min((reach.until for reach in self.tables.values()), default=None)

    @property
    def until_text(self) -> str:
        """Until when every table has partitions, as last read, in RFC 3339 and UTC; empty before the first read."""
        return "" if self._until is None else f"{self._until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def warning(self) -> str:
        """Returns a message if the partitions end soon or no table is registered, otherwise an empty text."""
        if self._is_empty:
            return _NO_TABLES
        if self._until is None or self._until - datetime.now(UTC) >= _MIN_AHEAD:
            return ""
        return f"its partitions end on {self.until_text[:10]}: run vsyncd maintain"

    def metadata(self) -> dict[str, str]:
        """Returns what health reports of the partitions."""
        return {"partitions_until": self.until_text} if self.until_text else {}
