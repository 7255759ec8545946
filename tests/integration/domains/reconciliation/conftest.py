"""ReconciliationService of the test's vsyncd."""

import grpc
import pytest
from vsync.v1 import reconciliation_pb2_grpc


@pytest.fixture
def reconciliation(channel: grpc.aio.Channel) -> "reconciliation_pb2_grpc.ReconciliationServiceAsyncStub":
    """ReconciliationService of `application`."""
    return reconciliation_pb2_grpc.ReconciliationServiceStub(channel)
