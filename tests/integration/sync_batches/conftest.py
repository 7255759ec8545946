"""SyncBatchService over a database of the test, and that database itself to prepare and to look."""

from collections.abc import AsyncIterator, Iterator
from functools import partial

import grpc
import psycopg
import pytest
from vsync.v1 import sync_batch_pb2_grpc as rpc
from vsyncd.config import Settings
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.mutations import Mutations
from vsyncd.sync_batches.service import SyncBatchService

from tests.harness.clusters import Database
from tests.harness.serving import opened, serving, settings_for
from tests.integration.sync_batches.batches import Batches, Store


@pytest.fixture
def settings(database: Database) -> Settings:
    """Settings for this test's database, as the service's role."""
    return settings_for(database.service_url)


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    """The server's pool."""
    async with opened(settings) as pool:
        yield pool


@pytest.fixture
async def channel(settings: Settings, pool: Pool) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with SyncBatchService."""
    service = SyncBatchService.on(pool, Mutations(pool))
    register = partial(rpc.add_SyncBatchServiceServicer_to_server, service)
    async with serving(settings, [register]) as channel:
        yield channel


@pytest.fixture
def batches(channel: grpc.aio.Channel) -> Batches:
    """The service, as these tests call it."""
    return Batches(channel)


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """The database, as its owner."""
    with psycopg.connect(database.owner, autocommit=True) as connection:
        yield Store(connection)
