"""Statements that call code which commits: a part of their effect may remain after a failure."""

import signal
from pathlib import Path

import psycopg
import pytest
from vsyncd.migrate import (
    SetDirty,
    StatementFailed,
    Up,
    force_version,
    run_migrations,
)

from tests.harness.clusters import Database
from tests.harness.migrations import dirty_advice, labels, rows, start_up, target_of, write_files
from tests.harness.owners import until

# Multiplies six amounts by ten, each in its own transaction. REPEATABLE skips those already multiplied.
LOOP = """DECLARE i integer; BEGIN
    FOR i IN 1..6 LOOP UPDATE "vsync".amounts SET cents = cents * 10 WHERE id = i {only}; COMMIT; END LOOP;
END"""


ONCE, REPEATABLE = LOOP.format(only=""), LOOP.format(only="AND cents = 100")


AMOUNTS = "SELECT array_agg(cents ORDER BY id) FROM vsync.amounts"


def amounts(statement: str, *, loop: str = ONCE, options: str = "no transaction") -> dict[str, str]:
    """Returns files that create the amounts and a procedure with this loop, and execute the statement."""
    return {
        "vsync/000001_amounts.up": 'CREATE TABLE "vsync".amounts AS SELECT n AS id, 100 AS cents'
        " FROM generate_series(1, 6) AS n",
        "vsync/000002_procedure.up": f'CREATE PROCEDURE "vsync".multiply() LANGUAGE plpgsql AS $$ {loop} $$',
        "vsync/000003_multiply.up": f"-- vsyncd: {options}\n{statement}",
    }


@pytest.mark.both_versions
@pytest.mark.parametrize("statement", ['CALL "vsync".multiply()', f"DO $$ {ONCE} $$"], ids=["CALL", "DO"])
def test_a_committing_statement_is_not_retried_without_its_lock(
    empty_database: Database, tmp_path: Path, statement: str
) -> None:
    root = write_files(tmp_path, amounts(statement, options="no transaction, lock_timeout = 50ms"))
    target = target_of(empty_database, root)
    run_migrations(target, Up(2))
    waits: list[str] = []
    with psycopg.connect(empty_database.owner) as holder:
        holder.execute("SELECT FROM vsync.amounts WHERE id = 5 FOR UPDATE")
        message = r"lock timeout \(55P03\).* is dirty\. Check in the database what that statement did\. .*`force 3`"
        with pytest.raises(StatementFailed, match=message):
            run_migrations(target, on_wait=waits.append)
    assert waits == []
    with pytest.raises(SetDirty, match=r"statement 1 .*`vsyncd migrate force 2 --set vsync`"):
        run_migrations(target)
    assert rows(empty_database, AMOUNTS) == [([1000, 1000, 1000, 1000, 100, 100],)]
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("UPDATE vsync.amounts SET cents = 1000")
    force_version(target, 3)
    assert run_migrations(target) == ()


@pytest.mark.parametrize("before", ["", "SELECT 1;\n"], ids=["first", "later"])
def test_a_committing_statement_is_not_resumed_after_a_failure(
    empty_database: Database, tmp_path: Path, before: str
) -> None:
    target = target_of(empty_database, write_files(tmp_path, amounts(f'{before}CALL "vsync".multiply()')))
    run_migrations(target, Up(2))
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("ALTER TABLE vsync.amounts ADD CONSTRAINT small CHECK (id < 4 OR cents < 1000)")
    with pytest.raises(StatementFailed, match="is dirty"):
        run_migrations(target)
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("ALTER TABLE vsync.amounts DROP CONSTRAINT small")
    with pytest.raises(SetDirty, match="Check in the database what that statement did"):
        run_migrations(target)
    assert rows(empty_database, AMOUNTS) == [([1000, 1000, 1000, 100, 100, 100],)]


def test_a_repeatable_committing_statement_is_resumed(empty_database: Database, tmp_path: Path) -> None:
    options = "no transaction, repeatable, lock_timeout = 50ms"
    files = amounts('CALL "vsync".multiply()', loop=REPEATABLE, options=options)
    target = target_of(empty_database, write_files(tmp_path, files))
    run_migrations(target, Up(2))
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("ALTER TABLE vsync.amounts ADD CONSTRAINT small CHECK (id < 4 OR cents < 1000)")
    with pytest.raises(StatementFailed, match=r"is dirty\. Fix the cause, then run `vsyncd migrate up"):
        run_migrations(target)
    assert rows(empty_database, AMOUNTS) == [([1000, 1000, 1000, 100, 100, 100],)]
    with psycopg.connect(empty_database.owner) as holder:
        holder.execute("ALTER TABLE vsync.amounts DROP CONSTRAINT small")
        holder.commit()
        holder.execute("SELECT FROM vsync.amounts WHERE id = 5 FOR UPDATE")
        steps = run_migrations(target, on_wait=lambda _: holder.rollback())
    assert labels(steps) == ["up vsync/000003_multiply"]
    assert rows(empty_database, AMOUNTS) == [([1000] * 6,)]


def test_up_resumes_a_repeatable_statement_after_kill_9(empty_database: Database, tmp_path: Path) -> None:
    options = "no transaction, repeatable, lock_timeout = 0"
    files = amounts('CALL "vsync".multiply()', loop=REPEATABLE, options=options)
    target = target_of(empty_database, write_files(tmp_path, files))
    run_migrations(target, Up(2))
    with psycopg.connect(empty_database.owner) as holder, psycopg.connect(empty_database.admin) as admin:
        admin.autocommit = True
        holder.execute("SELECT FROM vsync.amounts WHERE id = 5 FOR UPDATE")
        process = start_up(empty_database, tmp_path)
        calls = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query LIKE 'CALL %'"
        )
        until(lambda: admin.execute(calls).rowcount == 1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert "to resume" in dirty_advice(target)
        until(lambda: admin.execute(calls).rowcount == 0)
    assert labels(run_migrations(target)) == ["up vsync/000003_multiply"]
    assert rows(empty_database, AMOUNTS) == [([1000] * 6,)]
