"""Fixtures: a vsyncd that serves credits, and its stub."""

from typing import Any

import grpc
import pytest
from vsync.credits.v1.credit_pb2_grpc import CreditServiceStub


@pytest.fixture
def overrides(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings that differ from the tests' defaults: the domain, and those of the marker `settings`."""
    marker = request.node.get_closest_marker("settings")
    return {"domains": "credits"} | (dict(marker.kwargs) if marker else {})


@pytest.fixture
def credits_(channel: grpc.aio.Channel) -> Any:
    """CreditService of `application`."""
    return CreditServiceStub(channel)
