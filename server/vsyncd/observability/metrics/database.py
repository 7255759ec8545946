"""Statements by name, and connection pools."""

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.logs import logger
from vsyncd.observability.metrics.instruments import REGISTRY, Histogram
from vsyncd.observability.tracing import TRACES

PoolStats = Callable[[], Mapping[str, int]]

# The metric, psycopg_pool's name for it (AsyncConnectionPool.get_stats, which omits zeros), and its meaning. Counters
# also have a divisor.
_GAUGES: Final = (
    ("vsyncd_pool_min_connections", "pool_min", "Minimum size of the pool."),
    ("vsyncd_pool_max_connections", "pool_max", "Maximum size of the pool."),
    ("vsyncd_pool_size", "pool_size", "Connections of the pool, including those being established."),
    ("vsyncd_pool_waiting", "requests_waiting", "Requests waiting for a connection."),
)
_COUNTERS: Final = (
    ("vsyncd_pool_requests", "requests_num", 1, "Requests for a connection."),
    ("vsyncd_pool_requests_queued", "requests_queued", 1, "Requests that had to wait for a connection."),
    ("vsyncd_pool_wait_seconds", "requests_wait_ms", 1000, "Time that requests waited for a connection."),
    ("vsyncd_pool_request_errors", "requests_errors", 1, "Requests that got no connection."),
    ("vsyncd_pool_usage_seconds", "usage_ms", 1000, "Time that connections were in use."),
    ("vsyncd_pool_bad_returns", "returns_bad", 1, "Connections returned in a broken state."),
    ("vsyncd_pool_connects", "connections_num", 1, "Connection attempts."),
    ("vsyncd_pool_connect_seconds", "connections_ms", 1000, "Time spent connecting."),
    ("vsyncd_pool_connect_errors", "connections_errors", 1, "Failed connection attempts."),
    ("vsyncd_pool_lost_connections", "connections_lost", 1, "Connections found broken by a check."),
)
_log = logger(__name__)


class QueryCollector(Collector):
    """Measures statements. Those of at least `slow_after` seconds are counted and logged as slow (DB_SLOW_QUERY_MS)."""

    def __init__(self) -> None:
        self.slow_after = 0.1
        self._seconds: dict[str, Histogram] = {}
        self._slow: dict[str, int] = {}

    def timed(self, name: str) -> "QueryTimer":
        """Measures the statement with this name that the block of a `with` executes."""
        return QueryTimer(self, name)

    def observe(self, name: str, seconds: float, error: str = "") -> None:
        """Counts a completed statement. The log event contains its name, but no SQL and no parameters."""
        durations = self._seconds.get(name)
        if durations is None:
            durations = self._seconds[name] = Histogram()
        durations.observe(seconds)
        if seconds >= self.slow_after:
            self._slow[name] = self._slow.get(name, 0) + 1
            fields = {"error": error} if error else {}
            _log.warning("slow query", query=name, duration_ms=round(seconds * 1000, 1), **fields)

    def collect(self) -> Iterable[Metric]:
        durations = HistogramMetricFamily("vsyncd_query_seconds", "Durations of statements.", labels=["query"])
        slow = CounterMetricFamily(
            "vsyncd_slow_queries", "Statements that took at least DB_SLOW_QUERY_MS.", labels=["query"]
        )
        for name, seconds in list(self._seconds.items()):
            durations.add_metric([name], seconds.buckets(), seconds.total)
            slow.add_metric([name], self._slow.get(name, 0))
        return durations, slow


class QueryTimer:
    """Measures one statement, and makes a span of it. A class, because a generator costs more."""

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


class PoolCollector(Collector):
    """The pools of this process by name."""

    def __init__(self) -> None:
        self._pools: dict[str, PoolStats] = {}

    def add(self, name: str, stats: PoolStats) -> None:
        """Reports a pool from now on."""
        self._pools[name] = stats

    def remove(self, name: str, stats: PoolStats) -> None:
        """Stops reporting a pool, unless another pool now has its name."""
        if self._pools.get(name) == stats:
            del self._pools[name]

    def collect(self) -> Iterable[Metric]:
        pools = {name: stats() for name, stats in list(self._pools.items())}
        connections = GaugeMetricFamily(
            "vsyncd_pool_connections", "Connections of the pool, by state.", labels=["pool", "state"]
        )
        for pool, stats in pools.items():
            idle = stats.get("pool_available", 0)
            connections.add_metric([pool, "idle"], idle)
            connections.add_metric([pool, "used"], max(0, stats.get("pool_size", 0) - idle))
        yield connections
        for name, key, meaning in _GAUGES:
            gauge = GaugeMetricFamily(name, meaning, labels=["pool"])
            for pool, stats in pools.items():
                gauge.add_metric([pool], stats.get(key, 0))
            yield gauge
        for name, key, divisor, meaning in _COUNTERS:
            counter = CounterMetricFamily(name, meaning, labels=["pool"])
            for pool, stats in pools.items():
                counter.add_metric([pool], stats.get(key, 0) / divisor)
            yield counter


QUERIES: Final = QueryCollector()
POOLS: Final = PoolCollector()
REGISTRY.register(QUERIES)
REGISTRY.register(POOLS)
