"""Migrating through PgBouncer in transaction mode, which is not recommended but safe."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from vsyncd.migrate import MigrationTarget, current_versions, force_version, run_migrations

from tests.harness.clusters import Database
from tests.harness.migrations import start_up, write_files
from tests.harness.pgbouncer import pooled

pytestmark = pytest.mark.soak


@pytest.fixture
def through(empty_database: Database, folder: Path) -> Iterator[str]:
    """The owner's connection string through a pooler."""
    with pooled(empty_database.owner, folder) as conninfo:
        yield conninfo


def test_ten_processes_apply_each_file_once_and_leave_no_lock(
    empty_database: Database, through: str, tmp_path: Path
) -> None:
    files = {
        f"vsync/{number:06d}_t.up": f'CREATE TABLE "vsync".t{number} (id integer); SELECT pg_sleep(0.05)'
        for number in range(1, 4)
    }
    files["vsync/000004_index.up"] = '-- vsyncd: no transaction\nCREATE INDEX CONCURRENTLY i ON "vsync".t1 (id)'
    root = write_files(tmp_path, files)
    process = start_up(empty_database, root, conninfo=through, copies=10)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert sorted(out.split()) == ["1", "2", "3", "4"]
    with psycopg.connect(empty_database.admin) as admin:
        left = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database"
        assert admin.execute(f"{left} WHERE datname = current_database())".encode()).rowcount == 0
    # Each would wait for a lock that another process left on the pooler's server.
    for conninfo in (through, empty_database.owner):
        target = MigrationTarget(conninfo=conninfo, root=root, lock_timeout=5)
        force_version(target, 4)
        assert run_migrations(target) == ()
    assert current_versions(through, "vsync") == {"vsync": 4}
