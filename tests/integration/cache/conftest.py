"""A vsyncd with a cache: the test's own Valkey beside its database."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vsyncd.app import Application
from vsyncd.cache import invalidator, lookups, read_through, wiring
from vsyncd.config import Settings

from tests.harness.valkey import ValkeyServer, valkey_server
from tests.integration.cache.instances import cache_in_use


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A running, empty Valkey."""
    with valkey_server(tmp_path) as server:
        yield server


@pytest.fixture
def overrides(valkey: ValkeyServer, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings that differ from the tests' defaults: REDIS_URL, and those of the marker `settings`."""
    marker = request.node.get_closest_marker("settings")
    return {"redis_url": valkey.url, "redis_breaker_reset": 0.3} | (dict(marker.kwargs) if marker else {})


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes calls wait for Redis for seconds, in tests of what the cache answers rather than how soon.

    With the service's own limits, a busy machine decides whether a lookup is answered or bypassed. Request it with
    `usefixtures`, so that it is set up before `application`.
    """
    monkeypatch.setattr(lookups, "LOOKUP_TIMEOUT_S", 5.0)
    monkeypatch.setattr(lookups, "_SLOW_ANSWER_S", 60.0)
    monkeypatch.setattr(wiring, "_OPERATION_TIMEOUT_S", 60.0)
    monkeypatch.setattr(invalidator, "CONFIRMED_FOR_S", 60.0)
    monkeypatch.setattr(lookups, "_CLAIM_TTL_S", 60.0)
    monkeypatch.setattr(read_through, "_MAX_JOINABLE_AGE_S", 60.0)


@pytest.fixture
async def application(settings: Settings) -> AsyncIterator[Application]:
    """A vsyncd whose cache is in use."""
    async with Application(settings) as application:
        await cache_in_use(application)
        yield application


@pytest.fixture
def entries(valkey: ValkeyServer) -> Callable[[], int]:
    """Returns the number of records in Valkey."""

    def count() -> int:
        with valkey.client() as client:
            keys = set(client.scan_iter("vsync:*"))  # SCAN may return a key twice
            return sum(1 for key in keys if key.split(b":")[1] in {b"cid", b"key", b"id"})

    return count
