"""The metrics of this process, for Prometheus. docs/metrics.md lists them.

    RETRIES.labels("40001").inc()             rare events: prometheus_client's own types
    with QUERIES.timed(query.name): ...       hot paths: plain numbers, read by a collector
    POOLS.add("primary", pool.get_stats)      numbers of others: read at each scrape

All metrics are in one registry, REGISTRY. Plain numbers change only on the event loop, without a lock. A scrape runs in
its own thread and copies the collections before it iterates over them.
"""

from vsyncd.observability.metrics.calls import CALLS, MethodMetrics
from vsyncd.observability.metrics.database import POOLS, QUERIES
from vsyncd.observability.metrics.instruments import (
    BATCH_CALLS,
    BUILD,
    CACHE_CURRENT,
    CACHE_ERRORS,
    CACHE_EVENTS,
    CACHE_LOOKUPS,
    CACHE_SECONDS,
    CALLS_LIMIT,
    CERTIFICATE_EXPIRY,
    DIFFED_CIDS,
    EXPORTED_RECORDS,
    FAILURES,
    IMPORTED_RECORDS,
    REGISTRY,
    RELOAD_INVALID,
    RELOADS,
    REPLICA_LAG_BYTES,
    REPLICA_LAG_SECONDS,
    RETRIES,
    WATCHED_EVENTS,
)
from vsyncd.observability.metrics.jobs import BACKUPS, JOBS, BackupSummary

__all__ = [
    "BACKUPS",
    "BATCH_CALLS",
    "BUILD",
    "CACHE_CURRENT",
    "CACHE_ERRORS",
    "CACHE_EVENTS",
    "CACHE_LOOKUPS",
    "CACHE_SECONDS",
    "CALLS",
    "CALLS_LIMIT",
    "CERTIFICATE_EXPIRY",
    "DIFFED_CIDS",
    "EXPORTED_RECORDS",
    "FAILURES",
    "IMPORTED_RECORDS",
    "JOBS",
    "POOLS",
    "QUERIES",
    "REGISTRY",
    "RELOADS",
    "RELOAD_INVALID",
    "REPLICA_LAG_BYTES",
    "REPLICA_LAG_SECONDS",
    "RETRIES",
    "WATCHED_EVENTS",
    "BackupSummary",
    "MethodMetrics",
]
