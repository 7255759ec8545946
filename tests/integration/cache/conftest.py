"""vsyncd with a cache: a Valkey of the test's own beside its database."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from vsync.v1 import cid_pb2_grpc
from vsyncd.app import Application
from vsyncd.config import Settings, load_settings

from tests.harness.cids import Stub, until
from tests.harness.clusters import Database
from tests.harness.valkey import ValkeyServer, valkey_server


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A running Valkey, empty."""
    with valkey_server(tmp_path) as server:
        yield server


@pytest.fixture
def overrides(valkey: ValkeyServer, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings that differ from the tests' defaults: there is a Redis, and what the marker `settings` says."""
    marker = request.node.get_closest_marker("settings")
    return {"redis_url": valkey.url, "redis_breaker_reset": 0.3} | (dict(marker.kwargs) if marker else {})


@pytest.fixture
async def application(settings: Settings) -> AsyncIterator[Application]:
    """vsyncd, whose cache may be believed."""
    async with Application(settings) as application:
        await believed(application)
        yield application


async def believed(*applications: Application) -> None:
    """Wait until the caches are in use."""
    for application in applications:
        assert application.cache is not None
        follower = application.cache.follower
        await until(lambda follower=follower: follower.current)  # type: ignore[misc]  # a default binds the loop's variable


@contextlib.asynccontextmanager
async def instance(settings: Settings, **overrides: Any) -> AsyncIterator[tuple[Application, Stub]]:
    """One more vsyncd over the same database."""
    given = load_settings(**settings.model_dump() | overrides)
    async with Application(given) as application:
        await believed(application)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
            yield application, cid_pb2_grpc.CidServiceStub(channel)


Counter = Callable[[str], float]


@pytest.fixture
def entries(valkey: ValkeyServer) -> Callable[[], int]:
    """How many records are in Valkey."""

    def count() -> int:
        with valkey.client() as client:
            return sum(1 for name in client.scan_iter("vsync:*") if name.split(b":")[1] in {b"cid", b"key", b"id"})

    return count
