"""How far partitions reach, known from the last look: for metrics, health and alerts, long before a write fails."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from prometheus_client import Gauge

from vsyncd.jobs.maintenance.partitions import PARENTS, Look
from vsyncd.observability.metrics import REGISTRY
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries

# They are made eight weeks and three months ahead, every six hours: this is weeks of failures later.
SHORT: Final = timedelta(days=14)

_UNTIL: Final = Gauge(
    "vsyncd_partitions_until_timestamp_seconds",
    "Until when rows of a table have a partition.",
    ["table"],
    registry=REGISTRY,
)
_EXPIRED: Final = Gauge(
    "vsyncd_partitions_expired", "Partitions of a table that are past their retention.", ["table"], registry=REGISTRY
)


class PartitionWatch:
    """Looks at the partitions. `keep` is each table's retention."""

    def __init__(self, database: Database, *, keep: Mapping[str, timedelta | None]) -> None:
        self._database = database
        self._keep = keep
        self._query = queries("vsyncd.jobs.maintenance", database.schema)["partitions"]
        self._until: datetime | None = None

    async def look(self) -> Look:
        """Look now. Raises Failure."""
        rows = await self._database.read(lambda session: session.all(self._query))
        at = rows[0][0] if rows else datetime.now(UTC)
        look = Look.of((row[1:] for row in rows), at=at)
        reach = look.made_until()
        expired = [partition.parent for partition in look.expired(self._keep)]
        for parent in PARENTS:
            _UNTIL.labels(parent).set(reach[parent].timestamp())
            _EXPIRED.labels(parent).set(expired.count(parent))
        self._until = min(reach.values())
        return look

    @property
    def until_text(self) -> str:
        """Until when every table has its partitions, as last seen, RFC 3339 in UTC; empty: not looked yet."""
        return "" if self._until is None else f"{self._until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def warning(self) -> str:
        """A message if the partitions end soon, otherwise an empty text."""
        if self._until is None or self._until - datetime.now(UTC) >= SHORT:
            return ""
        return f"its partitions end on {self.until_text[:10]}: run vsyncd maintain"

    def metadata(self) -> dict[str, str]:
        """What health reports of the partitions."""
        return {"partitions_until": self.until_text} if self.until_text else {}
