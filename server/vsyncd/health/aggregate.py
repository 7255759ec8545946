"""Derives the status of the service from those of its dependencies."""

from collections.abc import Sequence

from vsyncd.health.records import Kind, Observation, Status, Verdict


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
    if any(each.kind is not Kind.DATABASE or not serves_reads for each in down):
        return Verdict(Status.UNHEALTHY, reasons)
    return Verdict(Status.DEGRADED, f"{reasons}; reads are served, writes are not" if down else reasons)
