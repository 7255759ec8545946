"""Fixtures: a vsyncd that serves payments, and its stubs."""

from typing import Any

import grpc
import pytest
from vsync.payments.v1.payment_pb2_grpc import PaymentServiceStub
from vsync.payments.v1.processor_health_pb2_grpc import ProcessorHealthServiceStub


@pytest.fixture
def overrides(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings that differ from the tests' defaults: the domain, and those of the marker `settings`."""
    marker = request.node.get_closest_marker("settings")
    return {"domains": "payments"} | (dict(marker.kwargs) if marker else {})


@pytest.fixture
def payments(channel: grpc.aio.Channel) -> Any:
    """PaymentService of `application`."""
    return PaymentServiceStub(channel)


@pytest.fixture
def processors(channel: grpc.aio.Channel) -> Any:
    """ProcessorHealthService of `application`."""
    return ProcessorHealthServiceStub(channel)
