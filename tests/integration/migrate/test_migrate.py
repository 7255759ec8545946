"""Applying and reverting migrations on real servers."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from vsyncd.migrate import (
    BadMigrationFiles,
    DatabaseRefused,
    DatabaseUnreachable,
    Down,
    MigrateError,
    MigrationLockTimeout,
    MigrationTarget,
    StatementFailed,
    Step,
    Up,
    current_versions,
    discover,
    latest_versions,
    outdated_sets,
    run_migrations,
)
from vsyncd.migrate.execution import MigrationSession, run_in_transaction, run_without_transaction
from vsyncd.migrate.script import read_script
from vsyncd.migrate.store import MigrationStore

from tests.harness.clusters import SERVICE, Database
from tests.harness.migrations import labels, write_files
from tests.harness.schema_dump import COMMITTED, schema_dump

Write = Callable[[dict[str, str]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Returns a function that writes migration files, given by their path without `.sql`, and returns their root."""
    return partial(write_files, tmp_path)


def target_of(database: Database, root: Path | None = None) -> MigrationTarget:
    return MigrationTarget(conninfo=database.owner, root=root, service_user=SERVICE, lock_timeout=60)


def versions(database: Database, schema: str = "vsync") -> dict[str, int]:
    return current_versions(database.owner, schema)


def value(database: Database, query: str) -> object:
    with psycopg.connect(database.owner) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row and row[0]


@pytest.mark.both_versions
def test_all_migrations_together_create_the_committed_schema(empty_database: Database) -> None:
    assert len(run_migrations(target_of(empty_database))) == len(discover())
    assert versions(empty_database) == latest_versions()
    # After a new migration: python -m scripts.make_schema_dump
    assert schema_dump(empty_database.owner) == COMMITTED.read_text()


@pytest.mark.both_versions
def test_every_version_has_the_same_schema_after_down_and_up(empty_database: Database) -> None:
    target = target_of(empty_database)
    dumps = {}
    for migration in discover():
        run_migrations(target, Up(1))
        dumps[migration] = schema_dump(empty_database.owner)
    assert len(set(dumps.values())) == len(dumps)

    for migration in reversed(dumps):
        assert schema_dump(empty_database.owner) == dumps[migration], f"after reverting to {migration}"
        run_migrations(target, Down())
    assert versions(empty_database) == {}
    assert re.findall(r"^CREATE (?!SCHEMA)\w+ (\S+)", schema_dump(empty_database.owner), re.MULTILINE) == [
        "vsync.schema_migrations",
        "vsync.schema_migrations_dirty",
    ]

    for migration, dump in dumps.items():
        run_migrations(target, Up(1))
        assert schema_dump(empty_database.owner) == dump, f"after applying {migration} again"


@pytest.mark.both_versions
def test_the_service_can_append_to_the_history_but_not_change_it(empty_database: Database) -> None:
    run_migrations(target_of(empty_database))
    changes = [
        *[("DELETE FROM {}", table) for table in ("audit_logs", "cid_events", "request_ids", "schema_migrations")],
        *[("TRUNCATE {}", table) for table in ("audit_logs", "cid_events", "request_ids")],
        ("UPDATE {} SET recorded_by = 'x'", "audit_logs"),
        ("UPDATE {} SET audit_id = NULL", "cid_events"),
        ("UPDATE {} SET method = 'x'", "request_ids"),
    ]
    with psycopg.connect(empty_database.service, autocommit=True) as service:
        # Partitions have their own privileges.
        parents = "{vsync.audit_logs,vsync.cid_events,vsync.request_ids}"
        leaves = service.execute(
            "SELECT relname FROM unnest(%s::regclass[]) AS parent, pg_partition_tree(parent) AS part"
            " JOIN pg_class ON pg_class.oid = part.relid WHERE part.isleaf",
            [parents],
        ).fetchall()
        assert len(leaves) > 10
        for change, table in [*changes, *[("DELETE FROM {}", leaf) for (leaf,) in leaves]]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
                service.execute(sql.SQL(change).format(sql.Identifier("vsync", table)))


def test_privileges_are_granted_even_without_pending_migrations(empty_database: Database) -> None:
    run_migrations(replace(target_of(empty_database), service_user=None))
    with pytest.raises(psycopg.errors.InsufficientPrivilege), psycopg.connect(empty_database.service) as service:
        service.execute("SELECT FROM vsync.cids")

    assert run_migrations(target_of(empty_database)) == ()
    with psycopg.connect(empty_database.service) as service:
        service.execute("SELECT FROM vsync.cids")


def test_the_schema_name_in_the_files_is_replaced(empty_database: Database) -> None:
    run_migrations(replace(target_of(empty_database), schema="pix_sync"))

    assert versions(empty_database, "pix_sync") == latest_versions()
    assert value(empty_database, "SELECT to_regnamespace('vsync')") is None
    with psycopg.connect(empty_database.service) as service:
        # The triggers' functions contain the schema too.
        service.execute(
            "INSERT INTO pix_sync.cids (key_type, account_type, cid, key_value, ispb, account_number, tax_id)"
            " VALUES (1, 1, sha256('1'), '11122233300', '12345678', '1', '11122233300')"
        )
        assert service.execute("SELECT sum(records) FROM pix_sync.cid_totals").fetchone() == (1,)
    run_migrations(replace(target_of(empty_database), schema="pix_sync"), Down(None))


def test_an_applied_version_is_recorded_with_role_time_duration_and_checksum(
    empty_database: Database, write: Write
) -> None:
    root = write({"tiny/000001_one.up": "SELECT pg_sleep(0.02)"})
    (step,) = run_migrations(target_of(empty_database, root))
    assert step.duration_ms >= 20
    with psycopg.connect(empty_database.owner) as connection:
        row = connection.execute(
            "SELECT set_name, version, name, checksum, applied_by, duration_ms, applied_at <= now()"
            " FROM vsync.schema_migrations"
        ).fetchone()
    assert row == ("tiny", 1, "one", step.migration.checksum, "vsync_owner", step.duration_ms, True)


def test_up_and_down_execute_the_requested_number_of_steps(empty_database: Database, write: Write) -> None:
    root = write(
        {
            "core/000001_a.up": 'CREATE TABLE "vsync".a ()',
            "core/000001_a.down": 'DROP TABLE "vsync".a',
            "core/000002_b.up": 'CREATE TABLE "vsync".b ()',
            "core/000002_b.down": 'DROP TABLE "vsync".b',
            # The core set is applied first, so another set may use its tables.
            "accounts/000001_c.up": 'CREATE TABLE "vsync".c () INHERITS ("vsync".b)',
            "accounts/000001_c.down": 'DROP TABLE "vsync".c',
        }
    )
    target = target_of(empty_database, root)
    seen: list[Step] = []

    assert labels(run_migrations(target, Up(1), on_step=seen.append)) == ["up core/000001_a"]
    assert labels(run_migrations(target, on_step=seen.append)) == ["up core/000002_b", "up accounts/000001_c"]
    assert len(seen) == 3
    assert versions(empty_database) == {"accounts": 1, "core": 2}
    assert labels(run_migrations(target, Down())) == ["down accounts/000001_c"]
    assert labels(run_migrations(replace(target, sets=("accounts",)))) == ["up accounts/000001_c"]
    assert labels(run_migrations(target, Down(2))) == ["down accounts/000001_c", "down core/000002_b"]
    assert labels(run_migrations(target, Down(None))) == ["down core/000001_a"]
    assert run_migrations(target, Down()) == ()


def test_a_failure_names_file_and_line_and_keeps_the_previous_version(empty_database: Database, write: Write) -> None:
    root = write(
        {
            "vsync/000001_good.up": 'CREATE TABLE "vsync".good ()',
            "vsync/000002_bad.up": '-- Two tables.\n\nCREATE TABLE "vsync".bad ();\n\nCREATE TABLE "vsync".worse (\n'
            "    id integer,\n    name texd\n);\n",
        }
    )
    with pytest.raises(StatementFailed) as failure:
        run_migrations(target_of(empty_database, root))

    assert str(failure.value) == (
        f'{root}/vsync/000002_bad.up.sql:7: statement 2 of 2: type "texd" does not exist (42704).'
        " The set vsync remains at version 1"
    )
    assert versions(empty_database) == {"vsync": 1}
    assert value(empty_database, "SELECT to_regclass('vsync.good')") is not None
    assert value(empty_database, "SELECT to_regclass('vsync.bad')") is None

    write({"vsync/000002_bad.up": 'CREATE TABLE "vsync".bad ()'})
    assert labels(run_migrations(target_of(empty_database, root))) == ["up vsync/000002_bad"]


def test_a_failure_in_a_block_names_the_first_line_of_its_statement(empty_database: Database, write: Write) -> None:
    root = write({"vsync/000001_do.up": "SELECT 1;\n/* a\n   comment */\nDO $$\nBEGIN\n    RAISE 'no';\nEND $$;"})
    with pytest.raises(
        StatementFailed, match=r"up\.sql:4: statement 2 of 2: no \(P0001\), PL/pgSQL .* line 3 at RAISE"
    ):
        run_migrations(target_of(empty_database, root))
    assert versions(empty_database) == {}


def test_a_failure_at_commit_names_the_file(empty_database: Database, write: Write) -> None:
    root = write(
        {
            "vsync/000001_late.up": 'CREATE TABLE "vsync".late (id integer PRIMARY KEY,'
            ' other integer REFERENCES "vsync".late DEFERRABLE INITIALLY DEFERRED);'
            'INSERT INTO "vsync".late VALUES (1, 2)'
        }
    )
    with pytest.raises(StatementFailed, match=r"000001_late\.up\.sql: .*foreign key .*remains at version 0") as failure:
        run_migrations(target_of(empty_database, root))
    assert "is not present" not in str(failure.value), "the detail quotes the row"
    assert versions(empty_database) == {}


def test_a_failed_down_keeps_the_version(empty_database: Database, write: Write) -> None:
    root = write({"vsync/000001_a.up": "SELECT 1", "vsync/000001_a.down": 'DROP TABLE "vsync".gone'})
    run_migrations(target_of(empty_database, root))
    with pytest.raises(StatementFailed, match=r"a\.down\.sql:1: .*remains at version 1"):
        run_migrations(target_of(empty_database, root), Down())
    assert versions(empty_database) == {"vsync": 1}


def test_a_changed_file_is_refused(empty_database: Database, write: Write) -> None:
    root = write({"vsync/000001_a.up": "SELECT 1;\nSELECT 2;\n"})
    run_migrations(target_of(empty_database, root))

    (root / "vsync/000001_a.up.sql").write_bytes(b"SELECT 1;\r\nSELECT 2;\r\n")
    assert run_migrations(target_of(empty_database, root)) == (), "line endings do not matter"

    write({"vsync/000001_a.up": "SELECT 3;", "vsync/000002_b.up": "SELECT 4"})
    with pytest.raises(MigrateError, match=r"000001_a\.up\.sql of the set vsync was changed after"):
        run_migrations(target_of(empty_database, root))
    assert versions(empty_database) == {"vsync": 1}


def test_a_database_newer_than_the_files_is_accepted(empty_database: Database, write: Write) -> None:
    root = write({"vsync/000001_a.up": "SELECT 1", "vsync/000002_b.up": "SELECT 2"})
    run_migrations(target_of(empty_database, root))
    (root / "vsync/000002_b.up.sql").unlink()

    assert run_migrations(target_of(empty_database, root)) == ()
    assert outdated_sets(versions(empty_database), latest_versions(root)) == {}
    with pytest.raises(MigrateError, match=r"vsync/000002_b\.down\.sql does not exist"):
        run_migrations(target_of(empty_database, root), Down())


def test_a_pending_version_below_an_applied_one_is_refused(empty_database: Database, write: Write) -> None:
    root = write({"vsync/000001_a.up": "SELECT 1", "vsync/000002_b.up": "SELECT 2"})
    run_migrations(target_of(empty_database, root))
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("DELETE FROM vsync.schema_migrations WHERE version = 1")
    with pytest.raises(MigrateError, match="vsync/000001_a is not applied, but a later version"):
        run_migrations(target_of(empty_database, root))


def test_a_file_that_ends_its_transaction_is_refused_before_anything_runs(
    empty_database: Database, write: Write
) -> None:
    root = write({"vsync/000001_a.up": "SELECT 1", "vsync/000002_b.up": "SELECT 2;\nCOMMIT;\nSELECT 3"})
    with pytest.raises(BadMigrationFiles, match=r"000002_b\.up\.sql:2: COMMIT would end the migration's transaction"):
        run_migrations(target_of(empty_database, root))
    assert versions(empty_database) == {}


def test_a_file_with_a_byte_order_mark_runs(empty_database: Database, write: Write) -> None:
    root = write({"vsync/000001_a.up": "\ufeffSELECT 1;\nSELECT 2"})
    assert labels(run_migrations(target_of(empty_database, root))) == ["up vsync/000001_a"]


# Session settings that a file can change, including the engine's own.
_SETTINGS = (
    "search_path",
    "role",
    "session_replication_role",
    "client_encoding",
    "idle_session_timeout",
    "client_connection_check_interval",
)


_NOTE = (
    'INSERT INTO "vsync".seen SELECT current_user, session_user,'
    f" ARRAY[{', '.join(f'current_setting({name!r})' for name in _SETTINGS)}]"
)


# The file ends as another user, who needs privileges on the engine's tables.
_LEAVING = """
SET ROLE none;
GRANT USAGE ON SCHEMA "vsync" TO vsyncd_service;
GRANT ALL ON ALL TABLES IN SCHEMA "vsync" TO vsyncd_service;
CREATE TEMPORARY TABLE left_behind ();
PREPARE left_behind AS SELECT 1;
SET search_path = pg_catalog;
SET session_replication_role = replica;
SET client_encoding = latin1;
SET idle_session_timeout = '1h';
SET client_connection_check_interval = 0;
SET SESSION AUTHORIZATION vsyncd_service"""


_RECORDING = """CREATE TABLE "vsync".seen (who text, session text, settings text[]);
CREATE FUNCTION "vsync".grant_to_service(service name, sets text[]) RETURNS void LANGUAGE sql AS $$ {note} $$"""


@pytest.mark.both_versions
@pytest.mark.parametrize("head", ["", "-- vsyncd: no transaction"], ids=["inside", "outside"])
def test_settings_of_a_file_do_not_affect_the_next_one(empty_database: Database, write: Write, head: str) -> None:
    note = f"{_NOTE}; {_LEAVING}"
    root = write(
        {
            "vsync/000001_a.up": _RECORDING.format(note=_NOTE),
            "vsync/000002_b.up": f"{head}\n{note}",
            "vsync/000003_c.up": f"{head}\n{note}",
        }
    )
    # Each file starts with the settings of the connection string.
    options = "-c search_path=vsync,public -c role=vsync_owner"
    conninfo = make_conninfo(empty_database.admin, options=options)
    run_migrations(MigrationTarget(conninfo=conninfo, root=root, service_user=SERVICE))
    with psycopg.connect(empty_database.owner) as connection:
        first, *others = connection.execute("SELECT who, session, settings FROM vsync.seen").fetchall()
    assert first[0] == "vsync_owner"
    assert first[2] == ["vsync,public", "vsync_owner", "origin", "UTF8", "0", "2s"]
    assert others == [first, first], "in the next file, and when granting"


def test_waiting_for_another_migration_ends_after_the_lock_timeout(empty_database: Database, write: Write) -> None:
    root = write({"vsync/000001_a.up": "SELECT 1"})
    target = replace(target_of(empty_database, root), lock_timeout=0.2, service_user=None)
    with psycopg.connect(empty_database.owner, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('vsyncd migrate vsync', 0))")
        with pytest.raises(MigrationLockTimeout, match=r"lock of the schema vsync for 0\.2 s"):
            run_migrations(target)
        # Another schema of the database has another lock.
        run_migrations(replace(target, schema="other"))
        # Closing the session would release the lock only after a delay.
        other.execute("SELECT pg_advisory_unlock_all()")
    run_migrations(target)
    with psycopg.connect(empty_database.owner, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('vsyncd migrate vsync', 0))")
        assert run_migrations(target) == (), "without pending migrations no lock is needed"


def test_a_migration_that_another_process_has_applied_meanwhile_is_skipped(
    empty_database: Database, write: Write
) -> None:
    """The plan is older than the recorded versions, as is possible behind a pooler."""
    root = write({"vsync/000001_a.up": 'CREATE TABLE "vsync".a ()'})
    run_migrations(target_of(empty_database, root))
    (script,) = (read_script(migration, direction="up", schema="vsync") for migration in discover(root))
    with psycopg.connect(empty_database.owner, autocommit=True) as connection:
        session = MigrationSession(connection=connection, store=MigrationStore("vsync"), lock_timeout=0, on_wait=print)
        assert run_in_transaction(session, script) is None
        assert run_without_transaction(session, script) is None


def test_an_existing_schema_requires_no_privilege_to_create_one(empty_database: Database, write: Write) -> None:
    root = write({"vsync/000001_a.up": 'CREATE TABLE "vsync".a ()'})
    as_service = MigrationTarget(conninfo=empty_database.service, root=root)
    with pytest.raises(DatabaseRefused, match="permission denied for database"):
        run_migrations(as_service)
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute(f"CREATE SCHEMA vsync; GRANT USAGE, CREATE ON SCHEMA vsync TO {SERVICE}".encode())
    assert labels(run_migrations(as_service)) == ["up vsync/000001_a"]


def test_an_unreachable_server_is_reported_in_one_line_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachable) as refusal:
        run_migrations(MigrationTarget(conninfo=f"host={tmp_path} user=someone password=hunter2"))
    assert "\n" not in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


async def test_the_service_reads_the_versions_through_its_own_connection(
    empty_database: Database, write: Write
) -> None:
    root = write({"vsync/000001_a.up": "SELECT 1"})
    async with await psycopg.AsyncConnection.connect(empty_database.owner, autocommit=True) as connection:
        assert await MigrationStore("vsync").fetch_versions(connection) == {}
        run_migrations(MigrationTarget(conninfo=empty_database.owner, root=root))
        assert await MigrationStore("vsync").fetch_versions(connection) == {"vsync": 1}
    assert outdated_sets({"vsync": 1}, {"vsync": 2, "payments": 1}) == {"vsync": 2, "payments": 1}
