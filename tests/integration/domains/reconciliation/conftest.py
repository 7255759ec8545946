"""Fixtures of ReconciliationService."""

import grpc
import pytest
from vsync.v1 import reconciliation_pb2_grpc


@pytest.fixture
def reconciliation(channel: grpc.aio.Channel) -> "reconciliation_pb2_grpc.ReconciliationServiceAsyncStub":
    """The stub of ReconciliationService."""
    return reconciliation_pb2_grpc.ReconciliationServiceStub(channel)
