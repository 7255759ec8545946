"""What health checks found, as metrics. From memory: asking for metrics checks nothing."""

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.health.aggregate import aggregate
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.registry import DependencyRegistry
from vsyncd.observability.metrics import REGISTRY


class HealthSource:
    """Who knows of this process's health."""

    def __init__(self, board: DependencyRegistry, serving: ServingStatus) -> None:
        self.board = board
        self.serving = serving


class HealthCollector(Collector):
    """The health of this process, as long as there is a source."""

    def __init__(self) -> None:
        self._source: HealthSource | None = None

    def add(self, source: HealthSource) -> None:
        """Ask it from now on."""
        self._source = source

    def remove(self, source: HealthSource) -> None:
        """Ask it no more, unless another one has taken its place."""
        if self._source is source:
            self._source = None

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        labels = ["dependency", "critical"]
        ready = GaugeMetricFamily("vsyncd_ready", "Whether calls are to be sent here: 1 yes, 0 no.")
        overall = GaugeMetricFamily("vsyncd_health_status", "The whole: 0 healthy, 1 degraded, 2 unhealthy.")
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
        if (source := self._source) is not None:
            observations = source.board.last()
            ready.add_metric([], source.serving.ready)
            if observations:
                overall.add_metric([], aggregate(observations).status)
            for seen in observations:
                names = [seen.name, str(seen.is_critical).lower()]
                status.add_metric(names, seen.status)
                seconds.add_metric(names, seen.response_time_ms / 1000)
                if seen.last_success is not None:
                    success.add_metric(names, seen.last_success.timestamp())
        return ready, overall, status, seconds, success


HEALTH: Final = HealthCollector()
REGISTRY.register(HEALTH)
