"""The metrics of this process, for Prometheus. docs/metrics.md lists them.

    RETRIES.labels("40001").inc()             rare events: prometheus_client's own types
    with QUERIES.timed(query.name): ...       hot paths: plain numbers, read by a collector
    POOLS.add("primary", pool.get_stats)      numbers of others: read at each scrape

All metrics are in one registry, REGISTRY. Plain numbers change only on the event loop, without a lock. A scrape runs in
its own thread and copies the collections before it iterates over them.
"""

import time
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from types import TracebackType
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.logs import logger
from vsyncd.observability.tracing import TRACES

# By default each counter has a second metric with its creation time.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client has no annotation there

REGISTRY: Final = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

BUILD: Final = Info("vsyncd_build", "The version of this process.", registry=REGISTRY)
CALLS_LIMIT: Final = Gauge(
    "vsyncd_calls_limit", "Maximum calls in flight; further calls are rejected.", registry=REGISTRY
)
FAILURES: Final = Counter("vsyncd_failures", "Calls answered with an error, by reason.", ["reason"], registry=REGISTRY)
RETRIES: Final = Counter(
    "vsyncd_retries", "Transactions and reads executed again, by cause.", ["reason"], registry=REGISTRY
)
RELOADS: Final = Counter(
    "vsyncd_reloads", "New versions of watched files, by setting and result.", ["setting", "result"], registry=REGISTRY
)
RELOAD_INVALID: Final = Gauge(
    "vsyncd_reload_invalid",
    "Whether a watched file is invalid, so that its previous version is used: 1 yes, 0 no.",
    ["setting"],
    registry=REGISTRY,
)
CERTIFICATE_EXPIRY: Final = Gauge(
    "vsyncd_tls_certificate_expiry_timestamp_seconds",
    "End of the validity of the gRPC server's certificate.",
    registry=REGISTRY,
)
REPLICA_LAG_SECONDS: Final = Gauge("vsyncd_replica_lag_seconds", "Replication lag.", ["replica"], registry=REGISTRY)
REPLICA_LAG_BYTES: Final = Gauge(
    "vsyncd_replica_lag_bytes", "Replication lag in bytes of WAL.", ["replica"], registry=REGISTRY
)
IMPORTED_RECORDS: Final = Counter(
    "vsyncd_import_records", "Records of imports, by result.", ["result"], registry=REGISTRY
)
EXPORTED_RECORDS: Final = Counter(
    "vsyncd_export_records", "Records sent by exports, complete or as CIDs only.", ["form"], registry=REGISTRY
)
DIFFED_CIDS: Final = Counter(
    "vsyncd_diffed_cids", "CIDs in uploaded CID set files, including duplicates.", registry=REGISTRY
)
WATCHED_EVENTS: Final = Counter("vsyncd_watched_events", "Events sent to watchers.", registry=REGISTRY)

# From a read in PostgreSQL's cache to a long deadline.
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)

_METHOD: Final = ("grpc_type", "grpc_service", "grpc_method")
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


class Histogram:
    """Counts values between bounds, and their sum. A value equal to a bound counts below it, as in Prometheus.

    prometheus_client's histogram takes a lock for each value and iterates over the buckets, which costs a few percent
    of a call. This one belongs to the event loop.
    """

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float] = BUCKETS_S) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of values in each bucket, the last one without an upper bound."""
        return tuple(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Returns each bound in Prometheus' notation with the cumulative count; the last bound is +Inf."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return [(bound, float(count)) for bound, count in zip(bounds, accumulate(self._counts), strict=True)]


class PlainCounter(Collector):
    """A counter with labels for hot paths."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._family = name, documentation, None, labels
        self._counts: Counts[tuple[str, ...]] = Counts()
        REGISTRY.register(self)

    def add(self, *labels: str, count: int = 1) -> None:
        self._counts[labels] += count

    def value(self, *labels: str) -> int:
        return self._counts[labels]

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(*self._family)
        for labels, count in list(self._counts.items()):
            family.add_metric(labels, count)
        yield family


class PlainHistogram(Collector):
    """Histograms of values by one label."""

    def __init__(self, name: str, documentation: str, label: str, bounds: Sequence[float] = BUCKETS_S) -> None:
        self._family = name, documentation, None, None, [label]
        self._bounds = bounds
        self._histograms: dict[str, Histogram] = {}
        REGISTRY.register(self)

    def labels(self, label: str) -> Histogram:
        histogram = self._histograms.get(label)
        if histogram is None:
            histogram = self._histograms[label] = Histogram(self._bounds)
        return histogram

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(*self._family)
        for label, histogram in list(self._histograms.items()):
            family.add_metric([label], histogram.buckets(), histogram.total)
        yield family


BATCH_CALLS: Final = PlainHistogram(
    "vsyncd_batch_calls", "Calls per coalesced statement.", "batch", (1, 2, 4, 8, 16, 32, 64, 128)
)

CACHE_CURRENT: Final = Gauge("vsyncd_cache_current", "Whether the cache answers reads: 1 yes, 0 no.", registry=REGISTRY)
# `result` is hit, absent (a cached NOT_FOUND), miss, or bypass (the cache cannot be used).
CACHE_LOOKUPS: Final = PlainCounter("vsyncd_cache_lookups", "Lookups of records, by result.", ["kind", "result"])
# `event` is stored, refused (changed meanwhile), elsewhere (read from another server than the change feed), taken_out,
# or forgotten (all entries at once).
CACHE_EVENTS: Final = PlainCounter("vsyncd_cache_upkeep", "Entries stored and invalidated.", ["event"])
# Redis answers in a tenth of the time of a database.
CACHE_SECONDS: Final = PlainHistogram(
    "vsyncd_cache_operation_seconds",
    "Durations of Redis operations.",
    "operation",
    (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
CACHE_ERRORS: Final = PlainCounter("vsyncd_cache_errors", "Failed Redis operations.", ["operation", "cause"])


class MethodMetrics:
    """The calls of one method. `handled` counts them by code, spelled as in Go (OK, NotFound); `seconds` are the
    durations of the completed calls."""

    __slots__ = ("handled", "labels", "received", "seconds", "sent", "started")

    def __init__(self, labels: tuple[str, str, str]) -> None:
        self.labels = labels
        self.started = 0
        self.received = 0
        self.sent = 0
        self.handled = {"OK": 0}
        self.seconds = Histogram()

    def count_sent(self) -> None:
        self.sent += 1

    def end(self, code: str, seconds: float) -> None:
        self.handled[code] = self.handled.get(code, 0) + 1
        self.seconds.observe(seconds)


class CallCollector(Collector):
    """The metrics of each served method."""

    def __init__(self) -> None:
        self._methods: dict[str, MethodMetrics] = {}

    def method(self, name: str, *, grpc_type: str) -> MethodMetrics:
        """Returns the metrics of a method by its full name.

        `grpc_type` is unary, client_stream, server_stream or bidi_stream.
        """
        service, _, method = name.partition("/")
        return self._methods.setdefault(name, MethodMetrics((grpc_type, service, method)))

    @property
    def methods(self) -> Mapping[str, MethodMetrics]:
        """The metrics of each served method by its full name."""
        return self._methods

    def collect(self) -> Iterable[Metric]:
        started = CounterMetricFamily("grpc_server_started", "Calls started.", labels=_METHOD)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls completed, by code.", labels=(*_METHOD, "grpc_code")
        )
        received = CounterMetricFamily("grpc_server_msg_received", "Messages received.", labels=_METHOD)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages sent.", labels=_METHOD)
        seconds = HistogramMetricFamily("grpc_server_handling_seconds", "Durations of calls.", labels=_METHOD)
        in_flight = GaugeMetricFamily("vsyncd_calls_in_flight", "Calls in flight.", labels=_METHOD)
        for method in list(self._methods.values()):
            labels = method.labels
            started.add_metric(labels, method.started)
            by_code = list(method.handled.items())
            for code, count in by_code:
                handled.add_metric((*labels, code), count)
            received.add_metric(labels, method.received)
            sent.add_metric(labels, method.sent)
            in_flight.add_metric(labels, method.started - sum(count for _, count in by_code))
            if method.started:
                seconds.add_metric(labels, method.seconds.buckets(), method.seconds.total)
        return started, handled, seconds, received, sent, in_flight


CALLS: Final = CallCollector()
REGISTRY.register(CALLS)


PoolStats = Callable[[], Mapping[str, int]]


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
