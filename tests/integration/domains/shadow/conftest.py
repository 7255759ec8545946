"""ShadowService over a database of the test."""

from collections.abc import AsyncIterator
from functools import partial

import grpc
import pytest
from vsync.shadow.v1 import shadow_pb2_grpc
from vsyncd.domains.shadow.repository import EvaluationRepository
from vsyncd.domains.shadow.search import EvaluationSearch
from vsyncd.domains.shadow.service import ShadowService
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.mutations import Mutations

from tests.harness.clusters import Database
from tests.harness.serving import opened, serving, settings_for
from tests.harness.shadow import Stub

MAX_RESPONSE_BYTES = 200_000


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    """The service's connections, with the service's role."""
    async with opened(settings_for(database.service_url)) as pool:
        yield pool


@pytest.fixture
def repository(pool: Pool) -> EvaluationRepository:
    """The repository of the service."""
    return EvaluationRepository(pool, Mutations(pool))


@pytest.fixture
async def channel(database: Database, pool: Pool, repository: EvaluationRepository) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with ShadowService, whose responses may have 200,000 bytes."""
    service = ShadowService(repository, EvaluationSearch(pool), tolerance=1e-9, max_response_bytes=MAX_RESPONSE_BYTES)
    register = partial(shadow_pb2_grpc.add_ShadowServiceServicer_to_server, service)
    async with serving(settings_for(database.service_url), [register]) as channel:
        yield channel


@pytest.fixture
def shadow(channel: grpc.aio.Channel) -> Stub:
    """The service's stub."""
    return shadow_pb2_grpc.ShadowServiceStub(channel)
