"""Whether calls are to be sent here, damped. Pure."""

from dataclasses import dataclass
from typing import Final

from vsyncd.health.records import Status

# One failed ping must not drain a fleet: every instance would see the same hiccup of the one database.
FAILURES: Final = 3


@dataclass(frozen=True, slots=True)
class Readiness:
    """Not ready until the first check that finds that calls can be served; then until FAILURES checks in a row find
    that they cannot. One good check makes it ready again. DEGRADED serves: reads, at the least."""

    serving: bool = False
    failures: int = 0

    def after(self, status: Status) -> "Readiness":
        """The next state."""
        if status is not Status.UNHEALTHY:
            return Readiness(serving=True)
        failures = min(self.failures + 1, FAILURES)
        return Readiness(serving=self.serving and failures < FAILURES, failures=failures)
