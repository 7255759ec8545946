"""What is counted rarely, or set by whoever knows it."""

from enum import IntEnum
from typing import Final

from prometheus_client import Counter, Gauge, Info

from vsyncd.observability.metrics.registry import REGISTRY


class BreakerState(IntEnum):
    """The values of BREAKER_STATE."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


BUILD: Final = Info("vsyncd_build", "The version that runs.", registry=REGISTRY)
CALLS_LIMIT: Final = Gauge(
    "vsyncd_calls_limit", "Calls in flight past which a new one is turned away.", registry=REGISTRY
)
FAILURES: Final = Counter(
    "vsyncd_failures", "Calls answered with an error, by its reason.", ["reason"], registry=REGISTRY
)
RETRIES: Final = Counter(
    "vsyncd_retries", "Transactions and reads executed again, by cause.", ["reason"], registry=REGISTRY
)
BREAKER_STATE: Final = Gauge(
    "vsyncd_circuit_breaker_state",
    "Circuit breaker of a dependency: 0 closed, 1 half open, 2 open.",
    ["dependency"],
    registry=REGISTRY,
)
BREAKER_SINCE: Final = Gauge(
    "vsyncd_circuit_breaker_since_timestamp_seconds",
    "Since when a circuit breaker has been closed, or has not been.",
    ["dependency"],
    registry=REGISTRY,
)
BREAKER_TRIPS: Final = Counter(
    "vsyncd_circuit_breaker_trips", "Times that a circuit breaker opened.", ["dependency"], registry=REGISTRY
)
REPLICA_LAG_SECONDS: Final = Gauge(
    "vsyncd_replica_lag_seconds", "Time by which a replica is behind.", ["replica"], registry=REGISTRY
)
REPLICA_LAG_BYTES: Final = Gauge(
    "vsyncd_replica_lag_bytes", "WAL by which a replica is behind.", ["replica"], registry=REGISTRY
)
IMPORTED_RECORDS: Final = Counter(
    "vsyncd_import_records", "Records of imports, by what became of them.", ["result"], registry=REGISTRY
)
EXPORTED_RECORDS: Final = Counter(
    "vsyncd_export_records", "Records of exports that were sent, whole or as cids.", ["form"], registry=REGISTRY
)
DIFFED_CIDS: Final = Counter(
    "vsyncd_diffed_cids", "CIDs of files that were compared with ours, repetitions included.", registry=REGISTRY
)
WATCHED_EVENTS: Final = Counter("vsyncd_watched_events", "Events that were sent to watchers.", registry=REGISTRY)
