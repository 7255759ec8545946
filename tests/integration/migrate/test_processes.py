"""Migrating with several processes at once, and with a killed process."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from vsyncd.migrate import Down, MigrationTarget, current_versions, discover, run_migrations

from tests.harness.clusters import Database
from tests.harness.migrations import start_up, write_files
from tests.harness.owners import until


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

    process = start_up(empty_database, tmp_path, copies=10)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert sorted(out.split()) == ["1", "2", "3", "4", "5", "6"]
    assert current_versions(empty_database.owner, "vsync") == {"vsync": 6}


# Ten instances, forked from one process with all modules loaded.
_INSTANCES = """
import asyncio, os, sys
from vsyncd.jobs.migrations import StartupMigration
from vsyncd.observability import logs
from vsyncd.postgres.database import Database
from tests.harness.serving import settings_for

logs.configure(level="INFO", form="json")
settings = settings_for(sys.argv[1], db_migrate_url=sys.argv[2], db_auto_migrate=True)

async def apply():
    return await StartupMigration(settings, Database(settings)).run()

def migrate():
    applied = asyncio.run(apply())
    sys.stderr.flush()
    os._exit(0 if applied else 1)

children = [os.fork() or migrate() for _ in range(10)]
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def test_ten_instances_starting_together_apply_each_migration_once(empty_database: Database) -> None:
    command = [sys.executable, "-c", _INSTANCES, empty_database.service_url, empty_database.owner_url]
    ran = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert ran.stdout == f"{[0] * 10}\n", ran.stderr
    applied = sorted(json.loads(line)["migration"] for line in ran.stderr.splitlines() if '"migrated"' in line)
    assert applied == [str(migration) for migration in discover()]


def test_kill_9_during_a_migration_keeps_the_previous_version_and_leaves_no_lock(
    empty_database: Database, tmp_path: Path
) -> None:
    (tmp_path / "vsync").mkdir()
    slow = tmp_path / "vsync" / "000001_slow.up.sql"
    slow.write_text('CREATE TABLE "vsync".slow (); SELECT pg_sleep(600)')
    process = start_up(empty_database, tmp_path)
    with psycopg.connect(empty_database.admin, autocommit=True) as admin:
        asleep = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        until(lambda: admin.execute(asleep).rowcount == 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    slow.write_text('CREATE TABLE "vsync".slow ()')
    assert current_versions(empty_database.owner, "vsync") == {}
    # Longer than the server takes to notice the killed client, shorter than the statement sleeps.
    (step,) = run_migrations(MigrationTarget(conninfo=empty_database.owner, root=tmp_path, lock_timeout=60))
    assert step.migration.version == 1


def test_kill_9_during_down_keeps_the_version_and_its_objects(empty_database: Database, tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {
            "vsync/000001_slow.up": 'CREATE TABLE "vsync".slow ()',
            "vsync/000001_slow.down": 'DROP TABLE "vsync".slow; SELECT pg_sleep(600)',
        },
    )
    target = MigrationTarget(conninfo=empty_database.owner, root=tmp_path, lock_timeout=60)
    run_migrations(target)
    process = start_up(empty_database, tmp_path, direction="down")
    with psycopg.connect(empty_database.admin, autocommit=True) as admin:
        asleep = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        until(lambda: admin.execute(asleep).rowcount == 1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        until(lambda: admin.execute(asleep).rowcount == 0)
        assert current_versions(empty_database.owner, "vsync") == {"vsync": 1}
        admin.execute("SELECT FROM vsync.slow")
    write_files(tmp_path, {"vsync/000001_slow.down": 'DROP TABLE "vsync".slow'})
    assert len(run_migrations(target, Down())) == 1
