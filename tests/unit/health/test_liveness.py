"""Liveness is memory: what was marked, and nothing else."""

import pytest
from vsync.health.v1 import health_pb2 as pb
from vsyncd.health.liveness import COMPONENTS, Liveness
from vsyncd.health.messages import liveness_info, liveness_response


def test_a_process_is_alive_when_every_part_is_there() -> None:
    liveness = Liveness()
    for name in COMPONENTS:
        response = liveness_response(liveness)
        assert response.status == pb.UNHEALTHY
        assert name in response.message
        liveness.mark(name)
    response = liveness_response(liveness)
    assert response.status == pb.HEALTHY
    assert [check.name for check in response.checks] == ["config", "grpc_server", "database_pool", "cache"]
    assert response.checked_at.endswith("Z")
    info = liveness_info(liveness)
    assert all((info.is_alive, info.config_loaded, info.pools_ready, info.cache_warmed))


def test_a_part_can_say_why() -> None:
    liveness = Liveness()
    liveness.mark("cache", message="not configured")
    assert liveness_response(liveness).checks[-1] == pb.ComponentCheck(
        name="cache", ready=True, message="not configured"
    )
    with pytest.raises(KeyError):
        liveness.mark("engine")
