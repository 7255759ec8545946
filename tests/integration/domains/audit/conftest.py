"""AuditService over a database of the test."""

from collections.abc import AsyncIterator
from functools import partial

import grpc
import pytest
from vsync.v1 import audit_pb2_grpc
from vsyncd.domains.audit.repository import AuditRepository
from vsyncd.domains.audit.service import AuditService
from vsyncd.postgres.mutations import Mutations

from tests.harness.clusters import Database
from tests.harness.serving import opened, serving, settings_for

MAX_RESPONSE_BYTES = 200_000


@pytest.fixture
async def channel(database: Database) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with AuditService, whose responses may have 200,000 bytes."""
    settings = settings_for(database.service_url)
    async with opened(settings) as pool:
        service = AuditService(AuditRepository(pool, Mutations(pool)), max_response_bytes=MAX_RESPONSE_BYTES)
        register = partial(audit_pb2_grpc.add_AuditServiceServicer_to_server, service)
        async with serving(settings, [register]) as channel:
            yield channel


@pytest.fixture
def audit(channel: grpc.aio.Channel) -> "audit_pb2_grpc.AuditServiceAsyncStub":
    """The service's stub."""
    return audit_pb2_grpc.AuditServiceStub(channel)
