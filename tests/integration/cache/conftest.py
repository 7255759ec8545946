"""vsyncd with a cache: a Valkey of the test's own beside its database."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vsyncd.app import Application
from vsyncd.config import Settings

from tests.harness.valkey import ValkeyServer, valkey_server
from tests.integration.cache.instances import believed


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


@pytest.fixture
def entries(valkey: ValkeyServer) -> Callable[[], int]:
    """How many records are in Valkey."""

    def count() -> int:
        with valkey.client() as client:
            return sum(1 for name in client.scan_iter("vsync:*") if name.split(b":")[1] in {b"cid", b"key", b"id"})

    return count
