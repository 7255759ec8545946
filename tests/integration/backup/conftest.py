"""A database with records of every kind, and its backups."""

from pathlib import Path

import pytest
from vsyncd.backup.manager import Backups

from tests.harness.backups import backups_in
from tests.harness.catalog import fill
from tests.harness.clusters import Database


@pytest.fixture
def filled(database: Database) -> Database:
    """`database` with 400 records."""
    fill(database)
    return database


@pytest.fixture
def backups(filled: Database, tmp_path: Path) -> Backups:
    """Backups of `filled`, created and restored as the superuser."""
    return backups_in(filled.admin, tmp_path / "backups")
