"""The registry, a histogram for hot paths, and the metrics without a collector of their own."""

from bisect import bisect_left
from collections.abc import Sequence
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
