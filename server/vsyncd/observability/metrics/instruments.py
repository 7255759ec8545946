"""The registry, instruments for hot paths, and the metrics without a collector of their own."""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Sequence
from itertools import accumulate
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
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

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
    "vsyncd_diffed_cids", "CIDs of files that were compared, including duplicates.", registry=REGISTRY
)
WATCHED_EVENTS: Final = Counter("vsyncd_watched_events", "Events sent to watchers.", registry=REGISTRY)

# From a read in PostgreSQL's cache to a long deadline.
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)


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
        """Counts a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self._counts)

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
        """Adds `count`."""
        self._counts[labels] += count

    def value(self, *labels: str) -> int:
        """Returns the present number."""
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
        """Returns the histogram of a label."""
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
    "vsyncd_batch_calls", "Calls gathered into one statement.", "batch", (1, 2, 4, 8, 16, 32, 64, 128)
)

CACHE_CURRENT: Final = Gauge("vsyncd_cache_current", "Whether the cache answers reads: 1 yes, 0 no.", registry=REGISTRY)
# `result` is hit, absent (a cached NOT_FOUND), miss, or bypass (the cache cannot be used).
CACHE_LOOKUPS: Final = PlainCounter("vsyncd_cache_lookups", "Records looked up.", ["kind", "result"])
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
