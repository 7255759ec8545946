"""Files that run outside a transaction: failures, dirty sets and resuming."""

import re
import signal
from pathlib import Path

import psycopg
import pytest
from vsyncd.migrate import (
    BadMigrationFiles,
    Down,
    Goto,
    SetDirty,
    State,
    StatementFailed,
    Up,
    current_versions,
    fetch_status,
    find_problems,
    force_version,
    latest_versions,
    outdated_sets,
    run_migrations,
)

from tests.harness.clusters import Database
from tests.harness.migrations import FILES, dirty_advice, labels, rows, start_up, target_of, write_files
from tests.harness.owners import until

INDEXES = (
    "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
    " WHERE indrelid = 'vsync.wide'::regclass ORDER BY 1"
)


@pytest.mark.both_versions
def test_every_command_reports_a_dirty_set_until_its_cause_is_fixed(empty_database: Database, tmp_path: Path) -> None:
    target = target_of(empty_database, write_files(tmp_path, FILES))
    with pytest.raises(StatementFailed) as failure:
        run_migrations(target)

    assert str(failure.value) == (
        f'{tmp_path}/vsync/000002_index.up.sql:3: statement 2 of 3: could not create unique index "wide_other_idx" '
        "(23505). The set vsync remains at version 1 and is dirty. "
        "Fix the cause, then run `vsyncd migrate up --set vsync` to resume"
    )
    assert current_versions(target.conninfo, "vsync") == {"vsync": 1}
    assert outdated_sets({"vsync": 1}, latest_versions(tmp_path)) == {"vsync": 2}
    assert rows(empty_database, INDEXES) == [("wide_other_idx", False)]
    assert [each.state for each in fetch_status(target)] == [State.APPLIED, State.DIRTY]
    text = dirty_advice(target)
    assert text.startswith("the set vsync is dirty: vsync/000002_index.up.sql stopped at line 3, statement 2")
    assert find_problems(target).problems[0] == text
    with pytest.raises(SetDirty, match=r"the set vsync is dirty: .* to resume"):
        run_migrations(target, Down())
    with pytest.raises(SetDirty):
        run_migrations(target, Goto(0))
    with pytest.raises(StatementFailed, match="statement 2 of 3"):
        run_migrations(target)

    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("UPDATE vsync.wide SET other = id")
    assert labels(run_migrations(target)) == ["up vsync/000002_index"]
    assert rows(empty_database, INDEXES) == [("wide_id_idx", True), ("wide_other_idx", True)]
    assert find_problems(target).problems == ()
    assert labels(run_migrations(target, Down(None))) == ["down vsync/000002_index", "down vsync/000001_table"]
    with pytest.raises(psycopg.errors.UndefinedTable):
        rows(empty_database, INDEXES)


def test_after_force_the_whole_file_runs_again_and_its_invalid_index_is_dropped(
    empty_database: Database, tmp_path: Path
) -> None:
    target = target_of(empty_database, write_files(tmp_path, FILES))
    with pytest.raises(StatementFailed):
        run_migrations(target)
    write_files(
        tmp_path,
        {
            "vsync/000002_index.up": "-- vsyncd: no transaction\n"
            'CREATE INDEX CONCURRENTLY IF NOT EXISTS wide_other_idx ON "vsync".wide (other)'
        },
    )
    with pytest.raises(SetDirty) as refusal:
        run_migrations(target)
    assert str(refusal.value).endswith(
        "Check in the database what that statement did. Undo the file by hand and run `vsyncd migrate force 1 "
        "--set vsync` (the file will run again), or complete it by hand and run `force 2`"
    )
    force_version(target, 1)
    assert labels(run_migrations(target)) == ["up vsync/000002_index"]
    assert rows(empty_database, INDEXES) == [("wide_other_idx", True)]


def test_a_file_that_was_corrected_after_the_executed_statements_is_resumed(
    empty_database: Database, tmp_path: Path
) -> None:
    target = target_of(empty_database, write_files(tmp_path, FILES))
    with pytest.raises(StatementFailed):
        run_migrations(target)
    write_files(tmp_path, {"vsync/000002_index.up": FILES["vsync/000002_index.up"].replace("UNIQUE ", "")})
    assert labels(run_migrations(target)) == ["up vsync/000002_index"]
    assert rows(empty_database, INDEXES) == [("wide_id_idx", True), ("wide_other_idx", True)]


def test_a_first_statement_without_effect_leaves_no_dirty_set(empty_database: Database, tmp_path: Path) -> None:
    root = write_files(tmp_path, {"vsync/000001_a.up": "-- vsyncd: no transaction\nSELECT 1 / 0;\nSELECT 2"})
    target = target_of(empty_database, root)
    with pytest.raises(StatementFailed, match=r"up\.sql:2: statement 1 of 2: .*remains at version 0$"):
        run_migrations(target)
    assert [each.state for each in fetch_status(target)] == [State.PENDING]


def test_a_rejected_statement_runs_again_after_its_cause_is_fixed(empty_database: Database, tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        {"vsync/000001_a.up": '-- vsyncd: no transaction\nCREATE TABLE "vsync".a ();\nDROP TABLE "vsync".gone'},
    )
    target = target_of(empty_database, root)
    with pytest.raises(StatementFailed, match=r"up\.sql:3: .*is dirty\. Fix the cause"):
        run_migrations(target)
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("CREATE TABLE vsync.gone ()")
    assert labels(run_migrations(target)) == ["up vsync/000001_a"]


@pytest.mark.parametrize("before", ["", 'CREATE TABLE "vsync".first ();\n'], ids=["first", "later"])
def test_another_index_of_the_same_name_is_not_taken_for_the_new_one(
    empty_database: Database, tmp_path: Path, before: str
) -> None:
    text = f'-- vsyncd: no transaction\n{before}CREATE INDEX CONCURRENTLY wide_id_idx ON "vsync".wide (id)'
    files = {"vsync/000001_table.up": FILES["vsync/000001_table.up"], "vsync/000002_index.up": text}
    target = target_of(empty_database, write_files(tmp_path, files))
    run_migrations(target, Up(1))
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("CREATE INDEX wide_id_idx ON vsync.wide (other)")
    for _ in range(2):
        with pytest.raises(StatementFailed, match="the index wide_id_idx already exists and may be different"):
            run_migrations(target)
        assert fetch_status(target)[-1].state is (State.DIRTY if before else State.PENDING)
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("DROP INDEX vsync.wide_id_idx")
    assert labels(run_migrations(target)) == ["up vsync/000002_index"]
    definition = "SELECT indexdef FROM pg_indexes WHERE indexname = 'wide_id_idx'"
    assert rows(empty_database, definition) == [("CREATE INDEX wide_id_idx ON vsync.wide USING btree (id)",)]


def test_a_rejected_statement_is_not_complete_even_if_an_index_of_its_name_exists_now(
    empty_database: Database, tmp_path: Path
) -> None:
    target = target_of(empty_database, write_files(tmp_path, FILES))
    with pytest.raises(StatementFailed, match="could not create unique index"):
        run_migrations(target)
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("DROP INDEX vsync.wide_other_idx; CREATE INDEX wide_other_idx ON vsync.wide (other)")
    with pytest.raises(StatementFailed, match="the index wide_other_idx already exists"):
        run_migrations(target)


@pytest.mark.both_versions
def test_up_resumes_after_kill_9_during_an_index_build(empty_database: Database, tmp_path: Path) -> None:
    files = FILES | {
        "vsync/000002_index.up": "-- vsyncd: no transaction\n"
        'CREATE INDEX CONCURRENTLY wide_id_idx ON "vsync".wide (id);\nALTER TABLE "vsync".wide ADD COLUMN third integer'
    }
    target = target_of(empty_database, write_files(tmp_path, files))
    run_migrations(target, Up(1))
    with psycopg.connect(empty_database.owner) as writer, psycopg.connect(empty_database.owner) as watcher:
        watcher.autocommit = True
        # The build waits for this transaction.
        writer.execute("INSERT INTO vsync.wide VALUES (0, 0)")
        process = start_up(empty_database, tmp_path)
        waiting = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query LIKE 'CREATE INDEX CONCURRENTLY%'"
        )
        until(lambda: watcher.execute(waiting).rowcount == 1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        writer.commit()
    assert "its process was killed, lost its connection or is still running" in dirty_advice(target)
    assert labels(run_migrations(target)) == ["up vsync/000002_index"]
    assert rows(empty_database, INDEXES) == [("wide_id_idx", True)]


def test_down_resumes_after_kill_9_during_down(empty_database: Database, tmp_path: Path) -> None:
    files = FILES | {"vsync/000002_index.up": FILES["vsync/000002_index.up"].replace("UNIQUE ", "")}
    target = target_of(empty_database, write_files(tmp_path, files))
    run_migrations(target)
    with psycopg.connect(empty_database.owner) as writer, psycopg.connect(empty_database.owner) as watcher:
        watcher.autocommit = True
        writer.execute("INSERT INTO vsync.wide VALUES (0, 0)")
        process = start_up(empty_database, tmp_path, direction="down")
        waiting = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query LIKE 'DROP INDEX CONCURRENTLY%'"
        )
        until(lambda: watcher.execute(waiting).rowcount == 1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        writer.commit()
    assert "its process was killed, lost its connection or is still running" in dirty_advice(target)
    with pytest.raises(SetDirty, match=r"`vsyncd migrate down --set vsync` to resume"):
        run_migrations(target)
    assert labels(run_migrations(target, Down())) == ["down vsync/000002_index"]
    assert rows(empty_database, INDEXES) == []


def test_kill_9_during_a_statement_with_unknown_outcome_requires_force(
    empty_database: Database, tmp_path: Path
) -> None:
    slow = '-- vsyncd: no transaction\nCREATE TABLE "vsync".a ();\nDO $$ BEGIN PERFORM pg_sleep(600); END $$'
    target = target_of(
        empty_database, write_files(tmp_path, {"vsync/000001_a.up": slow, "vsync/000001_a.down": "SELECT 1"})
    )
    process = start_up(empty_database, tmp_path)
    with psycopg.connect(empty_database.admin, autocommit=True) as admin:
        asleep = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        until(lambda: admin.execute(asleep).rowcount == 1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with pytest.raises(SetDirty, match=r"stopped at line 3, .*`vsyncd migrate force 0 --set vsync`"):
            run_migrations(target)
        # The server notices that its client was killed.
        until(lambda: admin.execute(asleep).rowcount == 0)
    force_version(target, 1)
    assert current_versions(target.conninfo, "vsync") == {"vsync": 1}
    assert run_migrations(target) == ()
    assert labels(run_migrations(target, Down())) == ["down vsync/000001_a"]


def test_with_gaps_the_previous_version_is_the_one_that_exists(empty_database: Database, tmp_path: Path) -> None:
    failing = "-- vsyncd: no transaction\nCREATE TABLE \"vsync\".b ();\nDO $$ BEGIN RAISE 'no'; END $$"
    files = {"vsync/000002_a.up": "SELECT 1", "vsync/000007_b.up": "SELECT nonsense"}
    target = target_of(empty_database, write_files(tmp_path, files))
    with pytest.raises(StatementFailed, match=r"The set vsync remains at version 2$"):
        run_migrations(target)
    write_files(tmp_path, {"vsync/000007_b.up": failing})
    with pytest.raises(StatementFailed, match=r"at version 2 and is dirty\. .*`vsyncd migrate force 2 .*force 7`"):
        run_migrations(target)
    with pytest.raises(SetDirty, match=r"`vsyncd migrate force 2 .*force 7`"):
        run_migrations(target)
    force_version(target, 2)
    assert current_versions(target.conninfo, "vsync") == {"vsync": 2}


def test_a_failed_down_names_both_versions_for_force(empty_database: Database, tmp_path: Path) -> None:
    down = "-- vsyncd: no transaction\nCREATE TABLE \"vsync\".done ();\nDO $$ BEGIN RAISE 'no'; END $$"
    target = target_of(
        empty_database, write_files(tmp_path, {"vsync/000001_a.up": "SELECT 1", "vsync/000001_a.down": down})
    )
    run_migrations(target)
    with pytest.raises(StatementFailed, match=r"at version 1 and is dirty\. .*`vsyncd migrate force 1 .*force 0`"):
        run_migrations(target, Down())
    force_version(target, 0)
    assert [each.state for each in fetch_status(target)] == [State.PENDING]


def test_up_and_goto_refuse_a_set_whose_down_was_interrupted(empty_database: Database, tmp_path: Path) -> None:
    down = '-- vsyncd: no transaction\nCREATE TABLE "vsync".done ();\nDROP TABLE "vsync".gone'
    files = {"vsync/000001_a.up": "SELECT 1", "vsync/000002_b.up": "SELECT 2", "vsync/000002_b.down": down}
    target = target_of(empty_database, write_files(tmp_path, files))
    run_migrations(target)
    with pytest.raises(StatementFailed, match="is dirty"):
        run_migrations(target, Down())
    advised = r"`vsyncd migrate down --set vsync` to resume"
    with pytest.raises(SetDirty, match=advised):
        run_migrations(target)
    with pytest.raises(SetDirty, match=advised):
        run_migrations(target, Goto(2))
    write_files(tmp_path, {"vsync/000003_c.up": "SELECT 3"})
    with pytest.raises(SetDirty, match=advised):
        run_migrations(target)
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("CREATE TABLE vsync.gone ()")
    assert labels(run_migrations(target, Down())) == ["down vsync/000002_b"]


def test_copy_from_the_client_is_refused_before_anything_runs(empty_database: Database, tmp_path: Path) -> None:
    copy = '-- vsyncd: no transaction\nSELECT 1;\nCOPY "vsync".a FROM STDIN;\n1\n\\.\n'
    files = {"vsync/000001_a.up": 'CREATE TABLE "vsync".a (id integer)', "vsync/000002_b.up": copy}
    target = target_of(empty_database, write_files(tmp_path, files))
    refusal = rf"{tmp_path}/vsync/000002_b\.up\.sql:3: COPY FROM STDIN and COPY TO STDOUT need a client"
    with pytest.raises(BadMigrationFiles, match=refusal):
        run_migrations(target)
    assert [each.state for each in fetch_status(target)] == [State.PENDING, State.PENDING]
    assert [re.search(refusal, problem) is not None for problem in find_problems(target).problems] == [True]


@pytest.mark.both_versions
def test_a_file_can_roll_back_to_its_own_savepoint(empty_database: Database, tmp_path: Path) -> None:
    text = (
        'CREATE TABLE "vsync".a ();\nSAVEPOINT s;\nCREATE TABLE "vsync".b ();\nROLLBACK TO SAVEPOINT s;\n'
        'CREATE TABLE "vsync".c ();\nRELEASE SAVEPOINT s'
    )
    target = target_of(empty_database, write_files(tmp_path, {"vsync/000001_a.up": text}))
    assert labels(run_migrations(target)) == ["up vsync/000001_a"]
    names = "SELECT tablename FROM pg_tables WHERE schemaname = 'vsync' AND length(tablename) = 1 ORDER BY 1"
    assert rows(empty_database, names) == [("a",), ("c",)]
