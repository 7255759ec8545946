"""Liveness is reported from memory."""

import pytest
from vsync.health.v1 import health_pb2 as pb
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.service import COMPONENTS, Liveness, Reports


def reports_of(liveness: Liveness) -> Reports:
    return Reports(DependencyRegistry([], timeout=60, max_age=0), liveness, ServingStatus())


async def test_a_process_is_alive_when_every_component_is_initialised() -> None:
    liveness = Liveness()
    reports = reports_of(liveness)
    for name in COMPONENTS:
        response = reports.liveness()
        assert response.status == pb.UNHEALTHY
        assert name in response.message
        liveness.mark(name)
    response = reports.liveness()
    assert response.status == pb.HEALTHY
    assert [check.name for check in response.checks] == ["config", "grpc_server", "database_pool", "cache"]
    assert response.checked_at.endswith("Z")
    info = (await reports.health(details=False)).liveness
    assert all((info.is_alive, info.config_loaded, info.pools_ready, info.cache_warmed))


def test_a_component_can_have_a_message() -> None:
    liveness = Liveness()
    liveness.mark("cache", message="not configured")
    assert reports_of(liveness).liveness().checks[-1] == pb.ComponentCheck(
        name="cache", ready=True, message="not configured"
    )
    with pytest.raises(KeyError):
        liveness.mark("engine")
