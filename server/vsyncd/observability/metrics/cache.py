"""The cache: lookups, maintenance of entries, and operations of Redis."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.metrics.instruments import REGISTRY, Histogram

# Redis answers in a tenth of the time of a database.
_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class CacheCollector(Collector):
    """The cache of this process."""

    def __init__(self) -> None:
        self._current: list[Callable[[], bool]] = []
        self._seconds: dict[str, Histogram] = {}
        self._errors: Counter[tuple[str, str]] = Counter()
        self._lookups: Counter[tuple[str, str]] = Counter()
        self._events: Counter[str] = Counter()

    def publish(self, current: Callable[[], bool]) -> Callable[[], None]:
        """Calls `current` at each scrape: whether the cache can be used. Returns a function that stops this."""
        self._current.append(current)
        return lambda: self._current.remove(current)

    def operation(self, name: str, seconds: float) -> None:
        """Counts a completed operation, successful or not."""
        durations = self._seconds.get(name)
        if durations is None:
            durations = self._seconds[name] = Histogram(_BUCKETS_S)
        durations.observe(seconds)

    def error(self, operation: str, cause: str) -> None:
        """Counts a failed operation."""
        self._errors[operation, cause] += 1

    def lookup(self, kind: str, result: str, count: int = 1) -> None:
        """Counts records that were looked up: hit, absent (a cached NOT_FOUND), miss, bypass (cache unavailable)."""
        self._lookups[kind, result] += count

    def event(self, name: str, count: int = 1) -> None:
        """Counts maintenance of entries: stored, refused (changed meanwhile), elsewhere (read from another server than
        the one whose changes are followed), taken_out, forgotten (all entries at once)."""
        self._events[name] += count

    def lookup_count(self, kind: str, result: str) -> int:
        """Returns the number of lookups with this result."""
        return self._lookups[kind, result]

    def event_count(self, event: str) -> int:
        """Returns the number of maintenance events with this name."""
        return self._events[event]

    def collect(self) -> Iterable[Metric]:
        current = GaugeMetricFamily("vsyncd_cache_current", "Whether the cache answers reads: 1 yes, 0 no.")
        current.add_metric([], any(each() for each in list(self._current)))
        lookups = CounterMetricFamily(
            "vsyncd_cache_lookups", "Lookups of records, by result.", labels=["kind", "result"]
        )
        for labels, count in list(self._lookups.items()):
            lookups.add_metric(labels, count)
        events = CounterMetricFamily("vsyncd_cache_upkeep", "Entries stored and invalidated.", labels=["event"])
        for event, count in list(self._events.items()):
            events.add_metric([event], count)
        seconds = HistogramMetricFamily(
            "vsyncd_cache_operation_seconds", "Durations of Redis operations.", labels=["operation"]
        )
        for name, durations in list(self._seconds.items()):
            seconds.add_metric([name], durations.buckets(), durations.total)
        errors = CounterMetricFamily("vsyncd_cache_errors", "Failed Redis operations.", labels=["operation", "cause"])
        for labels, count in list(self._errors.items()):
            errors.add_metric(labels, count)
        return current, lookups, events, seconds, errors


CACHE: Final = CacheCollector()
REGISTRY.register(CACHE)
