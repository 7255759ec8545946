"""From the dependencies to the whole. Pure."""

from collections.abc import Sequence

from vsyncd.health.records import Kind, Observation, Status, Verdict


def aggregate(observations: Sequence[Observation]) -> Verdict:
    """UNHEALTHY when a critical dependency is and reads cannot be served either; DEGRADED when anything is amiss.

    Reads can be served without a critical database as long as another one is read from: one that answers, and lags too
    far behind, is not. Of any other critical dependency it was configured that nothing can be done without it.
    """
    amiss = [observation for observation in observations if observation.status is not Status.HEALTHY]
    if not amiss:
        return Verdict(Status.HEALTHY, "All dependencies are healthy.")
    reasons = "; ".join(f"{observation.name}: {observation.message}" for observation in amiss)
    if any(_stops(observation, observations) for observation in amiss):
        return Verdict(Status.UNHEALTHY, reasons)
    if any(_is_down(observation) and observation.is_critical for observation in amiss):
        reasons += "; reads are served, writes are not"
    return Verdict(Status.DEGRADED, reasons)


def _stops(observation: Observation, all_of_them: Sequence[Observation]) -> bool:
    """Whether nothing can be served because of this one."""
    if not (observation.is_critical and _is_down(observation)):
        return False
    if observation.kind is not Kind.DATABASE:
        return True
    return not any(other.serves_reads and not _is_down(other) for other in all_of_them)


def _is_down(observation: Observation) -> bool:
    return observation.status is Status.UNHEALTHY
