"""Migrations by several processes at once, and by one that is killed."""

import signal
from pathlib import Path

import psycopg
import pytest
from vsyncd.migrate import Target, current_versions, migrate_up

from tests.harness.clusters import Database
from tests.harness.migrations import start_up, wait_until


@pytest.mark.both_versions
def test_ten_processes_starting_together_apply_each_file_once(empty_database: Database, tmp_path: Path) -> None:
    (tmp_path / "vsync").mkdir()
    for number in range(1, 6):
        text = f'CREATE TABLE "vsync".table_{number} (); SELECT pg_sleep(0.05)'
        (tmp_path / "vsync" / f"{number:06d}_table.up.sql").write_text(text)

    (tmp_path / "vsync" / "000006_index.up.sql").write_text(
        '-- vsyncd: no transaction\nCREATE TABLE "vsync".wide (id integer);\n'
        'CREATE INDEX CONCURRENTLY wide_idx ON "vsync".wide (id)'
    )

    processes = [start_up(empty_database, tmp_path) for _ in range(10)]
    outputs = [process.communicate(timeout=120) for process in processes]

    assert [process.returncode for process in processes] == [0] * 10, outputs
    assert sorted("".join(out for out, _ in outputs).split()) == ["1", "2", "3", "4", "5", "6"]
    assert current_versions(empty_database.owner, "vsync") == {"vsync": 6}


def test_kill_9_in_the_middle_leaves_the_last_good_version_and_no_lock(
    empty_database: Database, tmp_path: Path
) -> None:
    (tmp_path / "vsync").mkdir()
    slow = tmp_path / "vsync" / "000001_slow.up.sql"
    slow.write_text('CREATE TABLE "vsync".slow (); SELECT pg_sleep(600)')
    process = start_up(empty_database, tmp_path)
    with psycopg.connect(empty_database.admin, autocommit=True) as admin:
        asleep = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        wait_until(lambda: admin.execute(asleep).rowcount == 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    slow.write_text('CREATE TABLE "vsync".slow ()')
    assert current_versions(empty_database.owner, "vsync") == {}
    (step,) = migrate_up(Target(conninfo=empty_database.owner, root=tmp_path, lock_timeout=30))
    assert step.migration.version == 1
    assert step.duration_ms < 30_000, "the statement of the killed process went on to its end"
