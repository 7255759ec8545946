"""Backups: the steps that this process took, and what is kept, as it was last looked at."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client import Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.metrics.registry import REGISTRY

_STEPS: Final = Counter(
    "vsyncd_backup_steps", "Steps of backups here, by what they came to.", ["step", "result"], registry=REGISTRY
)
_SECONDS: Final = Gauge(
    "vsyncd_backup_step_seconds", "Duration of the last such step here.", ["step"], registry=REGISTRY
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupsSeen:
    """The stored backups of a database: time and size of the newest good one, time of the newest verified one, how many
    are in each state, and when the next one is due."""

    last: datetime | None = None
    last_size: int = 0
    last_verified: datetime | None = None
    states: Mapping[str, int]
    due: datetime


class BackupCollector(Collector):
    """What is kept, as long as somebody tells."""

    def __init__(self) -> None:
        self._seen: BackupsSeen | None = None

    def tell(self, seen: BackupsSeen | None) -> None:
        """It is like this now; None: nobody looks any more."""
        self._seen = seen

    def count(self, step: str, *, succeeded: bool, seconds: float) -> None:
        """A step has ended."""
        _STEPS.labels(step, "succeeded" if succeeded else "failed").inc()
        _SECONDS.labels(step).set(seconds)

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        last = GaugeMetricFamily(
            "vsyncd_backup_last_timestamp_seconds", "When the newest good backup was made; 0: there is none."
        )
        verified = GaugeMetricFamily(
            "vsyncd_backup_last_verified_timestamp_seconds",
            "When the newest backup that a verification found good was made; 0: there is none.",
        )
        due = GaugeMetricFamily("vsyncd_backup_due_timestamp_seconds", "When the next backup is due, or was.")
        size = GaugeMetricFamily("vsyncd_backup_last_bytes", "Size of the newest good backup.")
        stored = GaugeMetricFamily("vsyncd_backup_stored", "Backups that are kept, by their state.", labels=["state"])
        if (seen := self._seen) is not None:
            last.add_metric([], seen.last.timestamp() if seen.last else 0)
            verified.add_metric([], seen.last_verified.timestamp() if seen.last_verified else 0)
            due.add_metric([], seen.due.timestamp())
            size.add_metric([], seen.last_size)
            for state, count in seen.states.items():
                stored.add_metric([state], count)
        return last, verified, due, size, stored


BACKUPS: Final = BackupCollector()
REGISTRY.register(BACKUPS)
