"""What is known of dependencies, and of the whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum


class Status(IntEnum):
    """The numbers of vsync.health.v1.ServiceStatus."""

    HEALTHY = 0
    DEGRADED = 1
    UNHEALTHY = 2


class Kind(IntEnum):
    """The numbers of vsync.health.v1.DependencyType."""

    DATABASE = 0
    CACHE = 1
    MESSAGE_QUEUE = 2
    GRPC_SERVICE = 3
    HTTP_SERVICE = 4
    STORAGE = 5
    OTHER = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolInfo:
    """A connection pool: connections now, calls that wait now, and milliseconds waited in all."""

    max_connections: int
    active_connections: int
    idle_connections: int
    wait_count: int
    wait_duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """Where a dependency is and what it said of itself. Never a user name, a password or a connection string."""

    hostname: str = ""
    port: int = 0
    protocol: str = ""
    database_name: str = ""
    schema_name: str = ""
    topic_name: str = ""
    version: str = ""
    pool: PoolInfo | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found. `error` is the class of what failed (see causes.py), empty when nothing did. `serves_reads`:
    it is a database that calls are read from now. `missing_sets`: the migration sets that this database lacks versions
    of; the status is UNHEALTHY then."""

    status: Status
    message: str
    error: str = ""
    serves_reads: bool = False
    missing_sets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A dependency as its last check left it. Times are UTC; `last_success` is None before the first."""

    name: str
    kind: Kind
    is_critical: bool
    status: Status
    message: str
    error: str
    last_check: datetime
    last_success: datetime | None
    last_error_at: datetime | None
    response_time_ms: int
    serves_reads: bool = False
    missing_sets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole, and why."""

    status: Status
    message: str
