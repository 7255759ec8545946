"""Metrics of the health checks. Collected from memory: a scrape checks nothing."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.status import aggregate
from vsyncd.observability.metrics import REGISTRY


class HealthCollector(Collector):
    """Collects the metrics of one service."""

    def __init__(self) -> None:
        self._source: tuple[DependencyRegistry, ServingStatus] | None = None

    def publish(self, registry: DependencyRegistry, serving: ServingStatus) -> Callable[[], None]:
        """Collects from these until the returned function is called, or until others replace them."""
        source = self._source = registry, serving

        def withdraw() -> None:
            if self._source is source:
                self._source = None

        return withdraw

    def collect(self) -> Iterable[Metric]:
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
        if self._source is not None:
            registry, serving = self._source
            observations = registry.last()
            ready.add_metric([], serving.ready)
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
