"""What health checks found, from memory: asking for metrics checks nothing."""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.health.records import Observation
from vsyncd.metrics.registry import REGISTRY


class HealthSource(Protocol):
    """Who knows of this process's health."""

    @property
    def ready(self) -> bool:
        """Whether calls are to be sent here."""
        ...

    def last(self) -> Sequence[Observation]:
        """The last observation of each dependency that was checked."""
        ...


class HealthCollector(Collector):
    """The health of this process, as long as there is a source."""

    def __init__(self) -> None:
        self.source: HealthSource | None = None

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        labels = ["dependency", "critical"]
        ready = GaugeMetricFamily("vsyncd_ready", "Whether calls are to be sent here: 1 yes, 0 no.")
        status = GaugeMetricFamily(
            "vsyncd_dependency_status", "A dependency: 0 healthy, 1 degraded, 2 unhealthy.", labels=labels
        )
        seconds = GaugeMetricFamily(
            "vsyncd_dependency_check_seconds", "Duration of a dependency's last check.", labels=labels
        )
        success = GaugeMetricFamily(
            "vsyncd_dependency_last_success_timestamp_seconds",
            "When a check of a dependency last succeeded.",
            labels=labels,
        )
        if self.source is not None:
            ready.add_metric([], self.source.ready)
            for seen in self.source.last():
                names = [seen.name, str(seen.is_critical).lower()]
                status.add_metric(names, seen.status)
                seconds.add_metric(names, seen.response_time_ms / 1000)
                if seen.last_success is not None:
                    success.add_metric(names, seen.last_success.timestamp())
        return ready, status, seconds, success


HEALTH: Final = HealthCollector()
REGISTRY.register(HEALTH)
