"""Records of the state of dependencies and of the service."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum


class Status(IntEnum):
    """The same numbers as vsync.health.v1.ServiceStatus."""

    HEALTHY = 0
    DEGRADED = 1
    UNHEALTHY = 2


class Kind(IntEnum):
    """The same numbers as vsync.health.v1.DependencyType."""

    DATABASE = 0
    CACHE = 1
    MESSAGE_QUEUE = 2
    GRPC_SERVICE = 3
    HTTP_SERVICE = 4
    STORAGE = 5
    OTHER = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolInfo:
    """A connection pool: its connections and waiting calls now, and the total time waited in milliseconds."""

    max_connections: int
    active_connections: int
    idle_connections: int
    wait_count: int
    wait_duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """The address of a dependency and what it reported. Never contains a user name or a password."""

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
    """The result of a check.

    `error` is the category of the failure (postgres/error_categories.py), or empty. `serves_reads`: the dependency is a
    database that calls currently read from. `missing_sets`: the migration sets that this database lacks versions of; it
    is then UNHEALTHY.
    """

    status: Status
    message: str
    error: str = ""
    serves_reads: bool = False
    missing_sets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The state of a dependency after its last check. Times are UTC; `last_success` is None before the first one."""

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
    """The status of the service, and its reason."""

    status: Status
    message: str
