"""Reports how far the partitions reach to metrics, health and alerts, long before a write fails."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from prometheus_client import Gauge

from vsyncd.jobs.maintenance.partitions import PartitionSnapshot
from vsyncd.jobs.runner import JobFailed
from vsyncd.observability.metrics import REGISTRY
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries

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


class PartitionWatch:
    """Reads the registered tables and their partitions. `settings` has the retention settings in days."""

    def __init__(self, database: Database, settings: Mapping[str, int]) -> None:
        self._database = database
        self._settings = settings
        self._query = queries("vsyncd.jobs.maintenance", database.schema)["partitions"]
        self._until: datetime | None = None
        self._is_empty = False

    async def look(self) -> None:
        """Reads the partitions and updates metrics and health. Raises ServiceError, and JobFailed like `snapshot`."""
        await self.snapshot()

    async def snapshot(self) -> PartitionSnapshot:
        """Reads the partitions and updates metrics and health.

        Raises ServiceError, and JobFailed if no table is registered.
        """
        rows = await self._database.read(lambda session: session.all(self._query))
        self._is_empty = not rows
        if self._is_empty:
            raise JobFailed(_NO_TABLES)
        snapshot = PartitionSnapshot.from_rows(rows, self._settings)
        until = snapshot.complete_until()
        expired = [partition.parent for partition in snapshot.expired()]
        for table, time in until.items():
            _UNTIL.labels(table).set(time.timestamp())
            _EXPIRED.labels(table).set(expired.count(table))
        self._until = min(until.values())
        return snapshot

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
