"""vsync.health.v1's messages, made from records."""

from collections.abc import Sequence
from datetime import UTC, datetime

from vsync.health.v1 import health_pb2 as pb

from vsyncd.health.aggregate import aggregate
from vsyncd.health.liveness import Liveness
from vsyncd.health.records import Details, Observation, Status, Verdict


def now() -> str:
    """The present, as the contract writes times."""
    return time_text(datetime.now(UTC))


def time_text(moment: datetime | None) -> str:
    """RFC 3339, UTC, to the millisecond; empty for none."""
    return "" if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def liveness_response(liveness: Liveness) -> pb.LivenessResponse:
    """The answer of GetLiveness."""
    return pb.LivenessResponse(
        status=pb.HEALTHY if liveness.alive else pb.UNHEALTHY,
        message=liveness.message,
        checks=_components(liveness),
        checked_at=now(),
    )


def readiness_response(observations: Sequence[Observation], *, ready: bool) -> pb.LivenessResponse:
    """Whether calls are to be sent here: UNHEALTHY when not; which dependencies answered when last checked."""
    verdict = aggregate(observations)
    # Readiness is damped: the dependencies may be down already, or be back, and it not follow yet.
    served = Status.DEGRADED if verdict.status is not Status.HEALTHY else Status.HEALTHY
    status = served if ready else Status.UNHEALTHY
    return pb.LivenessResponse(
        status=_status(status),
        message=("Calls are served. " if ready else "Calls are not served now. ") + verdict.message,
        checks=[
            pb.ComponentCheck(name=seen.name, ready=seen.status is not Status.UNHEALTHY, message=seen.message)
            for seen in observations
        ],
        checked_at=now(),
    )


def liveness_info(liveness: Liveness) -> pb.LivenessInfo:
    """The process, beside its dependencies."""
    return pb.LivenessInfo(
        is_alive=liveness.alive,
        config_loaded=liveness.is_ready("config"),
        pools_ready=liveness.is_ready("database_pool"),
        cache_warmed=liveness.is_ready("cache"),
        components=_components(liveness),
    )


def health_response(
    verdict: Verdict, liveness: Liveness, dependencies: Sequence[pb.DependencyHealth], *, duration_ms: int
) -> pb.HealthResponse:
    """The answer of GetHealth, and an item of WatchHealth."""
    return pb.HealthResponse(
        status=_status(verdict.status),
        message=verdict.message,
        liveness=liveness_info(liveness),
        dependencies=dependencies,
        checked_at=now(),
        check_duration_ms=duration_ms,
    )


def dependency_health(observation: Observation, details: Details | None) -> pb.DependencyHealth:
    """One dependency; without details, without its config."""
    return pb.DependencyHealth(
        name=observation.name,
        type=pb.DependencyType.ValueType(observation.kind.value),
        status=_status(observation.status),
        is_critical=observation.is_critical,
        message=observation.message,
        config=None if details is None else _config(observation, details),
        last_success=time_text(observation.last_success),
        last_check=time_text(observation.last_check),
        response_time_ms=observation.response_time_ms,
        error=observation.error,
    )


def _config(observation: Observation, details: Details) -> pb.DependencyConfig:
    pool = details.pool
    metadata = dict(details.metadata)
    if observation.last_error_at is not None:
        metadata["last_error_at"] = time_text(observation.last_error_at)
    return pb.DependencyConfig(
        hostname=details.hostname,
        port=details.port,
        protocol=details.protocol,
        database_name=details.database_name,
        schema_name=details.schema_name,
        topic_name=details.topic_name,
        pool_info=None
        if pool is None
        else pb.ConnectionPoolInfo(
            max_connections=pool.max_connections,
            active_connections=pool.active_connections,
            idle_connections=pool.idle_connections,
            wait_count=pool.wait_count,
            wait_duration_ms=pool.wait_duration_ms,
        ),
        version=details.version,
        metadata=metadata,
    )


def _components(liveness: Liveness) -> list[pb.ComponentCheck]:
    return [
        pb.ComponentCheck(name=component.name, ready=component.ready, message=component.message)
        for component in liveness.components
    ]


def _status(status: Status) -> pb.ServiceStatus.ValueType:
    return pb.ServiceStatus.ValueType(status.value)
