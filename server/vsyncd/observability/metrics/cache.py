"""The cache: what was looked for and what was found, and how long Redis takes."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.metrics.histogram import Histogram
from vsyncd.observability.metrics.registry import REGISTRY

# Seconds. Redis answers in a tenth of what a database needs.
_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class CacheCollector(Collector):
    """The cache of this process."""

    def __init__(self) -> None:
        self._current: list[Callable[[], bool]] = []
        self._seconds: dict[str, Histogram] = {}
        self._errors: dict[tuple[str, str], int] = {}
        self._lookups: dict[tuple[str, str], int] = {}
        self._events: dict[str, int] = {}

    def publish(self, current: Callable[[], bool]) -> Callable[[], None]:
        """Ask this at each scrape whether the cache may be believed, until what is given back is called."""
        self._current.append(current)
        return lambda: self._current.remove(current)

    def operation(self, name: str, seconds: float) -> None:
        """An operation has ended, well or not."""
        distribution = self._seconds.get(name)
        if distribution is None:
            distribution = self._seconds[name] = Histogram(_SECONDS)
        distribution.observe(seconds)

    def error(self, operation: str, cause: str) -> None:
        """An operation has failed."""
        self._errors[operation, cause] = self._errors.get((operation, cause), 0) + 1

    def lookup(self, kind: str, result: str, count: int = 1) -> None:
        """Records were looked for: hit, absent (a cached NOT_FOUND), miss or bypass (the cache could not be asked)."""
        self._lookups[kind, result] = self._lookups.get((kind, result), 0) + count

    def looked_up(self, kind: str, result: str) -> int:
        """How many records of a kind were looked for with this result."""
        return self._lookups.get((kind, result), 0)

    def happened(self, event: str) -> int:
        """How often there was an event of the upkeep."""
        return self._events.get(event, 0)

    def event(self, name: str, count: int = 1) -> None:
        """Upkeep: stored, refused (a change came between), elsewhere (read from another server than the one that is
        followed), taken_out, forgotten (everything at once)."""
        self._events[name] = self._events.get(name, 0) + count

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        current = GaugeMetricFamily("vsyncd_cache_current", "Whether the cache answers reads now: 1 yes, 0 no.")
        current.add_metric([], any(each() for each in list(self._current)))
        lookups = CounterMetricFamily("vsyncd_cache_lookups", "Records looked for.", labels=["kind", "result"])
        for labels, count in list(self._lookups.items()):
            lookups.add_metric(labels, count)
        upkeep = CounterMetricFamily("vsyncd_cache_upkeep", "Entries stored, and taken out again.", labels=["event"])
        for event, count in list(self._events.items()):
            upkeep.add_metric([event], count)
        seconds = HistogramMetricFamily(
            "vsyncd_cache_operation_seconds", "Durations of operations of Redis.", labels=["operation"]
        )
        for name, distribution in list(self._seconds.items()):
            seconds.add_metric([name], distribution.buckets(), distribution.total)
        errors = CounterMetricFamily(
            "vsyncd_cache_errors", "Operations of Redis that failed.", labels=["operation", "cause"]
        )
        for labels, count in list(self._errors.items()):
            errors.add_metric(labels, count)
        return current, lookups, upkeep, seconds, errors


CACHE: Final = CacheCollector()
REGISTRY.register(CACHE)
