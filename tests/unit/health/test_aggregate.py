"""The status of the service, derived from its dependencies."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from vsync.health.v1 import health_pb2 as pb
from vsyncd.health.status import MAX_FAILURES, Observation, Readiness, Status, aggregate, observations_for

HEALTHY, DEGRADED, UNHEALTHY = Status


def seen(
    name: str,
    status: Status,
    *,
    is_critical: bool = False,
    kind: pb.DependencyType.ValueType = pb.DATABASE,
    serves_reads: bool = False,
) -> Observation:
    return Observation(
        name=name,
        kind=kind,
        is_critical=is_critical,
        status=status,
        message=f"{name} is {status.name}",
        error="",
        last_check=datetime.now(UTC),
        last_success=None,
        last_error_at=None,
        response_time_ms=1,
        serves_reads=serves_reads,
    )


def primary(status: Status) -> Observation:
    return seen("primary", status, is_critical=True)


def replica(status: Status, *, read_from: bool | None = None) -> Observation:
    return seen("replica", status, serves_reads=status is HEALTHY if read_from is None else read_from)


def cache(status: Status) -> Observation:
    return seen("cache", status, kind=pb.CACHE)


def needed(status: Status) -> Observation:
    return seen("needed", status, is_critical=True, kind=pb.GRPC_SERVICE)


@pytest.mark.parametrize(
    ("dependencies", "status"),
    [
        ([], HEALTHY),
        ([primary(HEALTHY), replica(HEALTHY), cache(HEALTHY)], HEALTHY),
        ([primary(HEALTHY), cache(UNHEALTHY)], DEGRADED),
        ([primary(HEALTHY), replica(DEGRADED)], DEGRADED),
        ([primary(DEGRADED)], DEGRADED),
        ([primary(UNHEALTHY)], UNHEALTHY),
        ([primary(UNHEALTHY), cache(HEALTHY)], UNHEALTHY),
        ([primary(UNHEALTHY), replica(HEALTHY)], DEGRADED),
        ([primary(UNHEALTHY), replica(DEGRADED, read_from=True)], DEGRADED),
        ([primary(UNHEALTHY), replica(DEGRADED, read_from=False)], UNHEALTHY),
        ([primary(UNHEALTHY), replica(HEALTHY, read_from=False)], UNHEALTHY),
        ([primary(UNHEALTHY), replica(UNHEALTHY), replica(HEALTHY)], DEGRADED),
        ([primary(UNHEALTHY), replica(UNHEALTHY)], UNHEALTHY),
        ([primary(HEALTHY), needed(UNHEALTHY)], UNHEALTHY),
        ([primary(HEALTHY), needed(DEGRADED)], DEGRADED),
    ],
    ids=lambda value: ",".join(f"{each.name}={each.status.name}" for each in value) if isinstance(value, list) else "",
)
def test_the_status_is_derived_from_the_dependencies(dependencies: list[Observation], status: Status) -> None:
    verdict = aggregate(dependencies)
    assert verdict.status is status
    for dependency in dependencies:
        assert (dependency.message in verdict.message) == (dependency.status is not HEALTHY)


def test_the_message_says_that_only_reads_are_served_without_the_primary() -> None:
    assert "reads are served, writes are not" in aggregate([primary(UNHEALTHY), replica(HEALTHY)]).message


def test_the_service_is_not_ready_before_the_first_successful_check() -> None:
    readiness = Readiness()
    assert not readiness.serving
    assert not readiness.after(UNHEALTHY).serving
    assert readiness.after(UNHEALTHY).after(HEALTHY).serving


def test_a_degraded_service_is_ready() -> None:
    assert Readiness().after(DEGRADED).serving


def test_consecutive_failures_end_readiness_and_one_success_restores_it() -> None:
    readiness = Readiness().after(HEALTHY)
    for _ in range(5):
        for _ in range(MAX_FAILURES - 1):
            readiness = readiness.after(UNHEALTHY)
            assert readiness.serving
        readiness = readiness.after(HEALTHY)
    for _ in range(MAX_FAILURES):
        readiness = readiness.after(UNHEALTHY)
    assert not readiness.serving
    assert not readiness.after(UNHEALTHY).serving
    assert readiness.after(HEALTHY) == Readiness(serving=True)


def test_a_missing_migration_set_concerns_the_services_that_need_it() -> None:
    lacking = replace(primary(UNHEALTHY), missing_sets=frozenset({"notes"}))
    assert aggregate([lacking]).status is UNHEALTHY
    assert aggregate(observations_for("notes", [lacking])).status is UNHEALTHY
    assert aggregate(observations_for("vsync", [lacking])).status is HEALTHY
    down = primary(UNHEALTHY)
    assert aggregate(observations_for("vsync", [down])).status is UNHEALTHY


def test_every_service_needs_the_core_set() -> None:
    lacking = replace(primary(UNHEALTHY), missing_sets=frozenset({"core"}))
    assert aggregate(observations_for("vsync", [lacking])).status is UNHEALTHY


def test_a_replica_without_the_migrations_does_not_serve_reads() -> None:
    lacking = replace(replica(UNHEALTHY, read_from=True), missing_sets=frozenset({"notes"}))
    observations = [primary(UNHEALTHY), lacking]
    assert aggregate(observations_for("notes", observations)).status is UNHEALTHY
    assert aggregate(observations_for("vsync", observations)).status is DEGRADED
