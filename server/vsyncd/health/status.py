"""The state of dependencies and of the service, and the rules that derive one from the other. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from typing import Final

from vsync.health.v1 import health_pb2 as pb

from vsyncd.postgres.database import CORE_SET

# One failed check must not drain a fleet: every instance sees the same failure of the one database.
MAX_FAILURES: Final = 3


class Status(IntEnum):
    """The same numbers as vsync.health.v1.ServiceStatus."""

    HEALTHY = 0
    DEGRADED = 1
    UNHEALTHY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of a check.

    `error` is the category of the failure (postgres/error_mapping.py), or empty. `serves_reads`: the dependency is a
    database that calls currently read from. `missing_sets`: the migration sets that this database lacks versions of; it
    is then UNHEALTHY.
    """

    status: Status
    message: str
    error: str = ""
    serves_reads: bool = False
    missing_sets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation(Finding):
    """The finding of a dependency's last check. Times are UTC; `last_success` is None before the first success."""

    name: str
    kind: pb.DependencyType.ValueType
    is_critical: bool
    last_check: datetime
    last_success: datetime | None
    last_error_at: datetime | None
    response_time_ms: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The status of the service, and its reason."""

    status: Status
    message: str


def aggregate(observations: Sequence[Observation]) -> Verdict:
    """Returns the status of the service and its reason.

    UNHEALTHY: a critical dependency is UNHEALTHY and reads cannot be served. DEGRADED: any dependency is not HEALTHY.

    Reads can be served without a critical database while another database is read from. A replica that lags too far is
    not read from. Without a critical dependency of another kind nothing can be served.
    """
    impaired = [observation for observation in observations if observation.status is not Status.HEALTHY]
    if not impaired:
        return Verdict(Status.HEALTHY, "All dependencies are healthy.")
    reasons = "; ".join(f"{observation.name}: {observation.message}" for observation in impaired)
    down = [each for each in impaired if each.is_critical and each.status is Status.UNHEALTHY]
    serves_reads = any(each.serves_reads and each.status is not Status.UNHEALTHY for each in observations)
    if any(each.kind != pb.DATABASE or not serves_reads for each in down):
        return Verdict(Status.UNHEALTHY, reasons)
    return Verdict(Status.DEGRADED, f"{reasons}; reads are served, writes are not" if down else reasons)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Not ready until the first check that is not UNHEALTHY; then until MAX_FAILURES checks in a row are UNHEALTHY.

    One good check makes it ready again. DEGRADED is ready: at least reads can be served.
    """

    serving: bool = False
    failures: int = 0

    def after(self, status: Status) -> "Readiness":
        if status is not Status.UNHEALTHY:
            return Readiness(serving=True)
        failures = min(self.failures + 1, MAX_FAILURES)
        return Readiness(serving=self.serving and failures < MAX_FAILURES, failures=failures)


def observations_for(migration_set: str, observations: Sequence[Observation]) -> list[Observation]:
    """Returns the observations as they count for a service that needs `core` and its own migration set only."""
    needed = {CORE_SET, migration_set}
    return [
        replace(seen, status=Status.HEALTHY) if seen.missing_sets and seen.missing_sets.isdisjoint(needed) else seen
        for seen in observations
    ]
