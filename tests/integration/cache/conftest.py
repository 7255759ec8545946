"""vsyncd with a cache: a Valkey of the test's own beside its database."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vsyncd.app import Application
from vsyncd.cache import invalidator, lookup_timeout, lookups, read_through, wiring
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
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for Redis for seconds, not milliseconds, in tests of what the cache answers rather than how soon.

    With the service's own limits, a busy machine decides whether a lookup is answered or bypassed. Request it with
    `usefixtures`, so that it is set up before `application`.
    """
    monkeypatch.setattr(lookup_timeout, "LIMIT", 5.0)
    monkeypatch.setattr(lookup_timeout, "_SLOW", 60.0)
    monkeypatch.setattr(wiring, "_TIMEOUT", 60.0)
    monkeypatch.setattr(invalidator, "FRESH", 60.0)
    monkeypatch.setattr(lookups, "_CLAIM", 60.0)
    monkeypatch.setattr(read_through, "_JOINABLE", 60.0)


@pytest.fixture
async def application(settings: Settings) -> AsyncIterator[Application]:
    """vsyncd, whose cache may be believed."""
    async with Application(settings) as application:
        await believed(application)
        yield application


@pytest.fixture
def entries(valkey: ValkeyServer) -> Callable[[], int]:
    """The number of records in Valkey. SCAN may return a name twice."""

    def count() -> int:
        with valkey.client() as client:
            names = set(client.scan_iter("vsync:*"))
            return sum(1 for name in names if name.split(b":")[1] in {b"cid", b"key", b"id"})

    return count
