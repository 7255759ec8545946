"""Decides whether calls can be sent here, from the results of the checks. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from vsyncd.health.records import Observation, Status
from vsyncd.postgres.database import CORE_SET

# One failed check must not drain a fleet: every instance sees the same failure of the one database.
MAX_FAILURES: Final = 3


@dataclass(frozen=True, slots=True)
class Readiness:
    """Not ready until the first check that is not UNHEALTHY; then until MAX_FAILURES checks in a row are UNHEALTHY.

    One good check makes it ready again. DEGRADED is ready: at least reads can be served.
    """

    serving: bool = False
    failures: int = 0

    def after(self, status: Status) -> "Readiness":
        """Returns the state after the next check."""
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
