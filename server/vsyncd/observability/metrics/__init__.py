"""What this process counts and measures, for Prometheus. docs/metrics.md lists it all.

from vsyncd.observability.metrics import POOLS, QUERIES, RETRIES
RETRIES.labels("40001").inc()                               what is rare: a counter of prometheus_client
with QUERIES.timed(query.name): ...                         what every call does: counted plainly, told when asked
POOLS.add("primary", pool.get_stats); POOLS.remove(...)     what somebody else counts: read when asked

All of it is in one registry a process, REGISTRY. What is counted plainly is counted on the one event loop, without a
lock; a scrape reads it in a thread of its own, and takes copies first.
"""

from vsyncd.observability.metrics.backups import BACKUPS
from vsyncd.observability.metrics.batches import BATCHES
from vsyncd.observability.metrics.cache import CACHE
from vsyncd.observability.metrics.instruments import (
    BREAKER_SINCE,
    BREAKER_STATE,
    BREAKER_TRIPS,
    BUILD,
    CALLS_LIMIT,
    DIFFED_CIDS,
    EXPORTED_RECORDS,
    FAILURES,
    IMPORTED_RECORDS,
    REPLICA_LAG_BYTES,
    REPLICA_LAG_SECONDS,
    RETRIES,
    WATCHED_EVENTS,
    BreakerState,
)
from vsyncd.observability.metrics.jobs import JOBS
from vsyncd.observability.metrics.pools import POOLS
from vsyncd.observability.metrics.queries import QUERIES
from vsyncd.observability.metrics.registry import REGISTRY
from vsyncd.observability.metrics.rpcs import RPCS, MethodMetrics

__all__ = [
    "BACKUPS",
    "BATCHES",
    "BREAKER_SINCE",
    "BREAKER_STATE",
    "BREAKER_TRIPS",
    "BUILD",
    "CACHE",
    "CALLS_LIMIT",
    "DIFFED_CIDS",
    "EXPORTED_RECORDS",
    "FAILURES",
    "IMPORTED_RECORDS",
    "JOBS",
    "POOLS",
    "QUERIES",
    "REGISTRY",
    "REPLICA_LAG_BYTES",
    "REPLICA_LAG_SECONDS",
    "RETRIES",
    "RPCS",
    "WATCHED_EVENTS",
    "BreakerState",
    "MethodMetrics",
]
