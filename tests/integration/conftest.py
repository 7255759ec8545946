"""vsyncd in the test's process on the test's own database, and channels to it.

For other settings, override the fixture `overrides` or mark a test with `settings(name=value)`.
"""

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from vsync.v1 import audit_pb2_grpc, cid_pb2_grpc
from vsyncd.app import Application
from vsyncd.config import Settings
from vsyncd.core.context import log_fields
from vsyncd.domains.registry import load_settings
from vsyncd.observability import logs

from tests.harness.clusters import Database


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "settings(name=value): settings of vsyncd for this test, by attribute")


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    """Configures logs as in the service.

    structlog's default prints tracebacks with all values, which takes half a minute.
    """
    logs.configure(level="DEBUG", form="json", context=log_fields)
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture
def overrides(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings that differ from the tests' defaults, from the marker `settings`."""
    marker = request.node.get_closest_marker("settings")
    return dict(marker.kwargs) if marker else {}


@pytest.fixture
def settings(database: Database, overrides: dict[str, Any]) -> Settings:
    """Settings for this test's database with the service role, so that tests find missing grants."""
    given: dict[str, Any] = {
        "database_url": database.service_url,
        "db_auto_migrate": False,
        "db_min_connections": 2,
        # Long timeouts, so that a busy or paused machine does not open the circuit breaker.
        "db_connect_timeout": 20,
        "db_acquire_timeout": 20,
        "db_ping_timeout": 20,
        "health_check_timeout": 10,
        "grpc_listen": "127.0.0.1:0",
        "http_listen": "127.0.0.1:0",
        "shutdown_grace": 1,
    }
    return load_settings(**given | overrides)


@pytest.fixture
async def application(settings: Settings) -> AsyncIterator[Application]:
    """A vsyncd that serves on `application.port`."""
    async with Application(settings) as application:
        yield application


@pytest.fixture
async def channel(application: Application) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to `application`."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        yield channel


@pytest.fixture
def cids(channel: grpc.aio.Channel) -> "cid_pb2_grpc.CidServiceAsyncStub":
    """CidService of `application`."""
    return cid_pb2_grpc.CidServiceStub(channel)


@pytest.fixture
def audit(channel: grpc.aio.Channel) -> "audit_pb2_grpc.AuditServiceAsyncStub":
    """AuditService of `application`."""
    return audit_pb2_grpc.AuditServiceStub(channel)
