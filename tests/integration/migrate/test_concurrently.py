"""CONCURRENTLY statements and open transactions: after success nothing invalid remains of interrupted attempts."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from vsyncd.migrate import (
    MigrationTarget,
    StatementFailed,
    Up,
    current_versions,
    find_invalid_objects,
    find_problems,
    run_migrations,
)

from tests.harness.clusters import Database
from tests.harness.migrations import start_up, target_of, write_files
from tests.harness.owners import until

TABLES = """
CREATE TABLE "vsync".wide (id integer, other integer);
INSERT INTO "vsync".wide SELECT n, n % 10 FROM generate_series(1, 100) AS n;
CREATE INDEX wide_id_idx ON "vsync".wide (id);
CREATE TABLE "vsync".parts (id integer) PARTITION BY RANGE (id);
CREATE TABLE "vsync".parts_1 PARTITION OF "vsync".parts FOR VALUES FROM (0) TO (10);
CREATE TABLE "vsync".parts_2 PARTITION OF "vsync".parts FOR VALUES FROM (10) TO (20);
CREATE INDEX parts_id_idx ON "vsync".parts (id);
CREATE MATERIALIZED VIEW "vsync".summary AS SELECT id FROM "vsync".wide;
CREATE UNIQUE INDEX summary_id_idx ON "vsync".summary (id);
"""
WRITE = "INSERT INTO vsync.wide VALUES (0, 0); INSERT INTO vsync.parts VALUES (1)"
READ = "SELECT FROM vsync.wide LIMIT 1; SELECT FROM vsync.parts LIMIT 1"
INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
TRANSIENT = "SELECT relname FROM pg_class WHERE relname ~ '_cc(new|old)[0-9]*$'"
MIGRATING = """
SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = database
WHERE locktype = 'advisory' AND datname = current_database()"""
PENDING = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhdetachpending"
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'vsync.parts'::regclass"


def prepared(
    database: Database, root: Path, statement: str, *, options: str = ", lock_timeout = 100ms"
) -> MigrationTarget:
    """Create the tables, and write a second migration with this statement. Returns the target."""
    head = f"-- vsyncd: no transaction{options}\n"
    target = target_of(
        database,
        write_files(root, {"vsync/000001_tables.up": TABLES, "vsync/000002_online.up": f"{head}{statement};\n"}),
    )
    run_migrations(target, Up(1))
    return target


def rows(database: Database, query: str) -> list[object]:
    with psycopg.connect(database.admin, options="-c search_path=") as connection:
        return [row[0] for row in connection.execute(query.encode()).fetchall()]


def assert_nothing_is_left(database: Database, target: MigrationTarget) -> None:
    assert current_versions(target.conninfo, "vsync") == {"vsync": 2}
    assert [rows(database, query) for query in (INVALID, TRANSIENT, PENDING)] == [[], [], []]
    assert find_problems(target).problems == ()


def release_at(attempt: int, holder: psycopg.Connection, seen: list[str]) -> Callable[[str], None]:
    """Returns an `on_wait` that ends the holder's transaction after this number of failed attempts."""

    def on_wait(location: str) -> None:
        seen.append(location)
        if len(seen) == attempt:
            holder.rollback()

    return on_wait


@pytest.mark.both_versions
@pytest.mark.parametrize(
    ("statement", "hold"),
    [
        ('REINDEX INDEX CONCURRENTLY "vsync".wide_id_idx', WRITE),
        ('REINDEX INDEX CONCURRENTLY "vsync".wide_id_idx', READ),
        ('REINDEX (CONCURRENTLY) INDEX "vsync".wide_id_idx', WRITE),
        ('reindex (verbose, concurrently on) table /* all */ "vsync" . wide', WRITE),
        ('REINDEX TABLE CONCURRENTLY "vsync".wide', READ),
        ('REINDEX INDEX CONCURRENTLY "vsync".parts_id_idx', WRITE),
        ('REINDEX TABLE CONCURRENTLY "vsync".parts', WRITE),
        ('REINDEX SCHEMA CONCURRENTLY "vsync"', WRITE),
        ("REINDEX (CONCURRENTLY) DATABASE", WRITE),
        ('CREATE INDEX CONCURRENTLY wide_other_idx ON "vsync".wide (other)', WRITE),
        ('CREATE INDEX CONCURRENTLY ON "vsync".wide (other)', WRITE),
        ('DROP INDEX CONCURRENTLY "vsync".wide_id_idx', READ),
        ('ALTER TABLE "vsync".parts DETACH PARTITION "vsync".parts_1 CONCURRENTLY', WRITE),
        ('ALTER TABLE "vsync".parts DETACH PARTITION "vsync".parts_1 CONCURRENTLY', READ),
    ],
)
def test_retried_attempts_leave_nothing_invalid(
    empty_database: Database, tmp_path: Path, statement: str, hold: str
) -> None:
    target = prepared(empty_database, tmp_path, statement)
    waits: list[str] = []
    with psycopg.connect(empty_database.owner) as holder:
        holder.execute(hold.encode())
        run_migrations(target, on_wait=release_at(1, holder, waits))
    assert waits
    assert_nothing_is_left(empty_database, target)


@pytest.mark.both_versions
def test_a_retried_refresh_leaves_nothing(empty_database: Database, tmp_path: Path) -> None:
    statement = 'REFRESH MATERIALIZED VIEW CONCURRENTLY "vsync".summary'
    target = prepared(empty_database, tmp_path, statement)
    waits: list[str] = []
    with psycopg.connect(empty_database.owner) as holder:
        holder.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY vsync.summary")
        run_migrations(target, on_wait=release_at(1, holder, waits))
    assert waits
    assert_nothing_is_left(empty_database, target)


@pytest.mark.both_versions
@pytest.mark.parametrize("spelling", ["INDEX CONCURRENTLY", "(CONCURRENTLY) INDEX"])
def test_concurrent_statements_wait_for_open_transactions_without_a_time_limit(
    empty_database: Database, tmp_path: Path, spelling: str
) -> None:
    target = prepared(empty_database, tmp_path, f'REINDEX {spelling} "vsync".wide_id_idx', options="")
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND query LIKE 'REINDEX%' AND clock_timestamp() - query_start > '1.5 s'"
    )
    with psycopg.connect(empty_database.owner) as holder:
        holder.execute(WRITE.encode())
        process = start_up(empty_database, tmp_path)
        until(lambda: rows(empty_database, waiting) == [1])
    assert process.communicate(timeout=60) == ("2\n", "")
    assert_nothing_is_left(empty_database, target)


@pytest.mark.both_versions
@pytest.mark.parametrize(
    "statement",
    [
        'REINDEX (CONCURRENTLY) TABLE "vsync".wide',
        'ALTER TABLE "vsync".parts DETACH PARTITION "vsync".parts_1 CONCURRENTLY',
        'DROP INDEX CONCURRENTLY "vsync".wide_id_idx',
    ],
    ids=["reindex", "detach", "drop"],
)
def test_the_next_up_completes_a_statement_whose_process_was_killed(
    empty_database: Database, tmp_path: Path, statement: str
) -> None:
    target = prepared(empty_database, tmp_path, statement, options="")
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND query ~ '^(REINDEX|ALTER TABLE|DROP INDEX)'"
    )
    with psycopg.connect(empty_database.owner) as holder:
        holder.execute(WRITE.encode())
        process = start_up(empty_database, tmp_path)
        until(lambda: rows(empty_database, waiting) == [1])
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run_migrations(target)
    assert_nothing_is_left(empty_database, target)
    assert rows(empty_database, PARTITIONS) == ["vsync.parts_2"] or "DETACH" not in statement


@pytest.mark.both_versions
@pytest.mark.parametrize(
    ("statement", "report"),
    [
        (
            'REINDEX TABLE CONCURRENTLY "vsync".wide',
            (
                'the index "vsync"."wide_id_idx_ccnew" of vsync.wide is invalid; left by an interrupted REINDEX'
                ' CONCURRENTLY: DROP INDEX CONCURRENTLY "vsync"."wide_id_idx_ccnew"'
            ),
        ),
        (
            'ALTER TABLE "vsync".parts DETACH PARTITION "vsync".parts_1 CONCURRENTLY',
            (
                "the partition vsync.parts_1 of vsync.parts is pending detach; left by an interrupted DETACH PARTITION"
                " CONCURRENTLY: ALTER TABLE vsync.parts DETACH PARTITION vsync.parts_1 FINALIZE"
            ),
        ),
    ],
    ids=["reindex", "detach"],
)
def test_an_interrupted_statement_is_reported_and_completed_later(
    empty_database: Database, tmp_path: Path, statement: str, report: str
) -> None:
    target = prepared(empty_database, tmp_path, statement)
    # The server may still be closing the session that held the lock of the first migration.
    until(lambda: rows(empty_database, MIGRATING) == [])
    with psycopg.connect(empty_database.owner) as holder:
        holder.execute(WRITE.encode())
        with pytest.raises(StatementFailed, match=r"is dirty\. Fix the cause, then run `vsyncd migrate up"):
            run_migrations(replace(target, lock_timeout=0))
    assert find_invalid_objects(target.conninfo) == (report,)
    assert report in find_problems(target).problems
    run_migrations(target)
    assert_nothing_is_left(empty_database, target)


@pytest.mark.both_versions
def test_invalid_indexes_of_others_are_reported_and_kept(empty_database: Database, tmp_path: Path) -> None:
    target = prepared(empty_database, tmp_path, 'REINDEX (CONCURRENTLY) INDEX "vsync".wide_id_idx')
    with (
        psycopg.connect(empty_database.owner) as holder,
        psycopg.connect(empty_database.owner, autocommit=True) as other,
    ):
        other.execute("CREATE INDEX parents ON ONLY vsync.parts ((id + 1))")
        holder.execute(WRITE.encode())
        other.execute("SET lock_timeout = '100ms'")
        for statement in (
            "CREATE INDEX CONCURRENTLY mine ON vsync.wide (other)",
            "REINDEX INDEX CONCURRENTLY vsync.wide_id_idx",
        ):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute(statement.encode())
        run_migrations(target, on_wait=release_at(2, holder, []))
    assert sorted(map(str, rows(empty_database, INVALID))) == ["vsync.mine", "vsync.parents", "vsync.wide_id_idx_ccnew"]
    assert find_problems(target).problems == find_invalid_objects(target.conninfo)
    assert [problem.partition(";")[0] for problem in find_invalid_objects(target.conninfo)] == [
        'the index "vsync"."mine" of vsync.wide is invalid',
        'the index "vsync"."parents" of vsync.parts is invalid',
        'the index "vsync"."wide_id_idx_ccnew" of vsync.wide is invalid',
    ]


@pytest.mark.both_versions
def test_an_index_that_only_a_superuser_can_drop_stops_the_run(empty_database: Database, tmp_path: Path) -> None:
    target = prepared(empty_database, tmp_path, 'REINDEX TABLE CONCURRENTLY "vsync".wide')
    with psycopg.connect(empty_database.owner) as owner:
        owner.execute("ALTER TABLE vsync.wide ADD COLUMN note text")  # with a TOAST table
    with psycopg.connect(empty_database.owner) as holder:
        holder.execute(WRITE.encode())
        with pytest.raises(StatementFailed, match="Run as a superuser: DROP INDEX CONCURRENTLY") as failure:
            run_migrations(target)
    (toast,) = (str(name) for name in rows(empty_database, INVALID) if str(name).startswith("pg_toast."))
    assert f"left the invalid index {toast}" in str(failure.value)
    with psycopg.connect(empty_database.admin, autocommit=True) as admin:
        admin.execute(f"DROP INDEX CONCURRENTLY {toast}".encode())
    run_migrations(target)
    assert_nothing_is_left(empty_database, target)


def test_a_pending_detach_is_completed(empty_database: Database, tmp_path: Path) -> None:
    statement = 'ALTER TABLE "vsync".parts DETACH PARTITION "vsync".parts_1 CONCURRENTLY'
    target = prepared(empty_database, tmp_path, statement)
    with (
        psycopg.connect(empty_database.owner) as holder,
        psycopg.connect(empty_database.owner, autocommit=True) as other,
    ):
        holder.execute(READ.encode())
        other.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute(statement.encode())
    assert rows(empty_database, PENDING) == ["vsync.parts_1"]
    run_migrations(target)
    assert_nothing_is_left(empty_database, target)
