"""Fixtures: a vsyncd that serves IOCs, and its stub."""

from typing import Any

import grpc
import pytest
from vsync.iocs.v1.ioc_pb2_grpc import IocServiceStub


@pytest.fixture
def overrides(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings that differ from the tests' defaults: the domain, and those of the marker `settings`."""
    marker = request.node.get_closest_marker("settings")
    return {"domains": "iocs"} | (dict(marker.kwargs) if marker else {})


@pytest.fixture
def iocs(channel: grpc.aio.Channel) -> Any:
    """IocService of `application`."""
    return IocServiceStub(channel)
