"""Fixtures: SyncBatchService of a running vsyncd, and its database."""

from collections.abc import AsyncIterator, Iterator

import grpc
import psycopg
import pytest
from vsyncd.config import Settings
from vsyncd.postgres.database import Database as Pool

from tests.harness.clusters import Database
from tests.harness.serving import opened
from tests.integration.domains.sync_batches.batches import Batches, Store


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    """A pool for tests of repositories."""
    async with opened(settings) as pool:
        yield pool


@pytest.fixture
def batches(channel: grpc.aio.Channel) -> Batches:
    """The calls of the service."""
    return Batches(channel)


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """The database, as its owner."""
    with psycopg.connect(database.owner, autocommit=True) as connection:
        yield Store(connection)
