"""Held locks, deadlocks and slow statements: a migration retries, and does not block other sessions."""

import threading
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from vsyncd.migrate import MigrationTarget, StatementFailed, Up, current_versions, run_migrations

from tests.harness.clusters import Database
from tests.harness.migrations import FILES, target_of, write_files
from tests.harness.owners import until


@pytest.mark.parametrize("transaction", [True, False])
def test_a_held_lock_is_retried_without_blocking_other_sessions(
    empty_database: Database, tmp_path: Path, *, transaction: bool
) -> None:
    head = "-- vsyncd: lock_timeout = 50ms" + ("" if transaction else ", no transaction")
    root = write_files(
        tmp_path,
        {
            "vsync/000001_table.up": FILES["vsync/000001_table.up"],
            "vsync/000002_column.up": f'{head}\nALTER TABLE "vsync".wide ADD COLUMN third integer',
        },
    )
    target = target_of(empty_database, root)
    run_migrations(target, Up(1))
    waits: list[str] = []
    twice = threading.Event()

    def on_wait(location: str) -> None:
        waits.append(location)
        if len(waits) == 2:
            twice.set()

    with psycopg.connect(empty_database.owner) as reader, psycopg.connect(empty_database.owner) as writer:
        reader.execute("SELECT FROM vsync.wide LIMIT 1")
        thread = threading.Thread(target=lambda: run_migrations(target, on_wait=on_wait))
        thread.start()
        assert twice.wait(60)
        # Queued behind the migration's lock request it would wait for the reader.
        writer.execute("SET statement_timeout = '30s'")
        writer.execute("INSERT INTO vsync.wide VALUES (1, 1)")
        writer.commit()
        reader.commit()
        thread.join(60)
    assert waits[0] == f"{root}/vsync/000002_column.up.sql:2: statement 1 of 1"
    assert current_versions(target.conninfo, "vsync") == {"vsync": 2}


def test_a_migration_is_retried_after_a_deadlock(empty_database: Database, tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        {
            "vsync/000001_tables.up": 'CREATE TABLE "vsync".a (); CREATE TABLE "vsync".b ()',
            "vsync/000002_both.up": "-- vsyncd: lock_timeout = 0\n"
            'LOCK TABLE "vsync".a; SELECT pg_advisory_xact_lock(7); LOCK TABLE "vsync".b',
        },
    )
    target = target_of(empty_database, root)
    run_migrations(target, Up(1))
    waits: list[str] = []

    def cross() -> None:
        with psycopg.connect(empty_database.admin) as other:
            other.execute("SET deadlock_timeout = '1h'")  # so that PostgreSQL ends the migration's statement
            other.execute("LOCK TABLE vsync.b")
            other.execute("LOCK TABLE vsync.a")

    with psycopg.connect(empty_database.admin, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(7)")
        waiting = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query LIKE {}"
        )
        threads = [threading.Thread(target=lambda: run_migrations(target, on_wait=waits.append))]
        threads[0].start()
        until(lambda: gate.execute(sql.SQL(waiting).format("SELECT pg_advisory%")).rowcount == 1)
        threads.append(threading.Thread(target=cross))
        threads[1].start()
        until(lambda: gate.execute(sql.SQL(waiting).format("LOCK TABLE vsync.a%")).rowcount == 1)
        gate.execute("SELECT pg_advisory_unlock(7)")
        for thread in threads:
            thread.join(60)
    assert waits == [f"{root}/vsync/000002_both.up.sql:2: statement 3 of 3"]
    assert current_versions(target.conninfo, "vsync") == {"vsync": 2}


def test_retrying_ends_after_the_lock_timeout(empty_database: Database, tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        {
            "vsync/000001_table.up": FILES["vsync/000001_table.up"],
            "vsync/000002_column.up": '-- vsyncd: lock_timeout = 50ms\nDROP TABLE "vsync".wide',
        },
    )
    target = MigrationTarget(conninfo=empty_database.owner, root=root, lock_timeout=1)
    run_migrations(target, Up(1))
    with psycopg.connect(empty_database.owner) as reader:
        reader.execute("SELECT FROM vsync.wide LIMIT 1")
        with pytest.raises(
            StatementFailed, match=r":2: statement 1 of 1: other sessions held a needed lock during all \d"
        ):
            run_migrations(target)
    assert current_versions(target.conninfo, "vsync") == {"vsync": 1}


def test_a_statement_is_cancelled_after_its_timeout(empty_database: Database, tmp_path: Path) -> None:
    root = write_files(tmp_path, {"vsync/000001_a.up": "-- vsyncd: statement_timeout = 50ms\nSELECT pg_sleep(600)"})
    with pytest.raises(StatementFailed, match=r":2: statement 1 of 1: canceling statement due to statement timeout"):
        run_migrations(target_of(empty_database, root))
