"""Fixtures of the client's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.clusters import Database
from tests.harness.processes import ServerProcess, server_process


@pytest.fixture
def server(database: Database, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server for this test only."""
    with server_process(database, tmp_path / "server.log") as server:
        yield server
