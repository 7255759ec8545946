"""Metrics of the health checks. Collected from memory: a scrape checks nothing."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.health.aggregate import aggregate
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.registry import DependencyRegistry
from vsyncd.observability.metrics import REGISTRY


class HealthSource(NamedTuple):
    """The source of the metrics."""

    registry: DependencyRegistry
    serving: ServingStatus


class HealthCollector(Collector):
    """Collects the metrics of the source, if there is one."""

    def __init__(self) -> None:
        self._source: HealthSource | None = None

    def add(self, source: HealthSource) -> None:
        """Sets the source."""
        self._source = source

    def remove(self, source: HealthSource) -> None:
        """Removes the source, unless another one has replaced it."""
        if self._source is source:
            self._source = None

    def collect(self) -> Iterable[Metric]:
        """Returns the metrics; without samples if there is no source."""
        labels = ["dependency", "critical"]
        ready = GaugeMetricFamily("vsyncd_ready", "Whether new calls should be sent to this instance: 1 yes, 0 no.")
        overall = GaugeMetricFamily(
            "vsyncd_health_status", "Status of the service: 0 healthy, 1 degraded, 2 unhealthy."
        )
        status = GaugeMetricFamily(
            "vsyncd_dependency_status", "Status of a dependency: 0 healthy, 1 degraded, 2 unhealthy.", labels=labels
        )
        seconds = GaugeMetricFamily(
            "vsyncd_dependency_check_seconds", "Duration of a dependency's last check.", labels=labels
        )
        success = GaugeMetricFamily(
            "vsyncd_dependency_last_success_timestamp_seconds",
            "Time of the last successful check of a dependency.",
            labels=labels,
        )
        if (source := self._source) is not None:
            observations = source.registry.last()
            ready.add_metric([], source.serving.ready)
            if observations:
                overall.add_metric([], aggregate(observations).status)
            for seen in observations:
                values = [seen.name, str(seen.is_critical).lower()]
                status.add_metric(values, seen.status)
                seconds.add_metric(values, seen.response_time_ms / 1000)
                if seen.last_success is not None:
                    success.add_metric(values, seen.last_success.timestamp())
        return ready, overall, status, seconds, success


HEALTH: Final = HealthCollector()
REGISTRY.register(HEALTH)
