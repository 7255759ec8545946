"""Statements, by name: how long they take, and which of them are slow."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.logs import logger
from vsyncd.observability.metrics.histogram import Histogram
from vsyncd.observability.metrics.registry import REGISTRY
from vsyncd.observability.tracing import TRACES

_log = logger(__name__)


class QueryCollector(Collector):
    """Measures statements. `slow_after`: seconds from which one is counted and logged as slow (DB_SLOW_QUERY_MS)."""

    def __init__(self) -> None:
        self.slow_after = 0.1
        self._seconds: dict[str, Histogram] = {}
        self._slow: dict[str, int] = {}

    def timed(self, name: str) -> "Timing":
        """Measures the block of a `with`, which executes the statement of this name."""
        return Timing(self, name)

    def observe(self, name: str, seconds: float, error: str = "") -> None:
        """A statement has ended. The log line names it, and the call it belongs to, never its SQL or parameters."""
        distribution = self._seconds.get(name)
        if distribution is None:
            distribution = self._seconds[name] = Histogram()
        distribution.observe(seconds)
        if seconds >= self.slow_after:
            self._slow[name] = self._slow.get(name, 0) + 1
            _log.warning(
                "slow query", query=name, duration_ms=round(seconds * 1000, 1), **({"error": error} if error else {})
            )

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        durations = HistogramMetricFamily("vsyncd_query_seconds", "Durations of statements.", labels=["query"])
        slow = CounterMetricFamily("vsyncd_slow_queries", "Statements past DB_SLOW_QUERY_MS.", labels=["query"])
        for name, distribution in list(self._seconds.items()):
            durations.add_metric([name], distribution.buckets(), distribution.total)
            slow.add_metric([name], self._slow.get(name, 0))
        return durations, slow


class Timing:
    """A statement under way."""

    __slots__ = ("_collector", "_name", "_span", "_started")

    def __init__(self, collector: QueryCollector, name: str) -> None:
        self._collector = collector
        self._name = name

    def __enter__(self) -> None:
        self._span = TRACES.operation(self._name, "postgresql")
        self._span.__enter__()
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._started
        self._span.__exit__(kind, error, traceback)
        self._collector.observe(self._name, seconds, kind.__name__ if kind else "")


QUERIES: Final = QueryCollector()
REGISTRY.register(QUERIES)
