"""Tables of other migration tools: golang-migrate's is adopted, the others are reported."""

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from vsyncd.migrate import (
    KEPT_TABLE,
    Down,
    Goto,
    MigrateError,
    MigrationTarget,
    StatementFailed,
    adopt_version,
    current_versions,
    fetch_status,
    find_problems,
    force_version,
    latest_versions,
    preview,
    run_migrations,
)
from vsyncd.migrate.store import MigrationStore

from tests.harness.clusters import SERVICE, Database
from tests.harness.migrations import target_of, write_files

# As golang-migrate's PostgreSQL driver creates it.
GOLANG_MIGRATE = "CREATE TABLE vsync.schema_migrations (version bigint not null primary key, dirty boolean not null)"
FILES = {
    "vsync/1_users.up": 'CREATE TABLE "vsync".users ()',
    "vsync/1_users.down": 'DROP TABLE "vsync".users',
    "vsync/1085649617_add-emails.up": 'CREATE TABLE "vsync".emails ()',
    "vsync/20261129101500_orders.up": 'BEGIN;\nCREATE TABLE "vsync".orders ();\nCOMMIT;',
    "vsync/20261129101500_orders.down": 'DROP TABLE "vsync".orders',
}


def execute(database: Database, *statements: str) -> None:
    with psycopg.connect(database.owner) as connection:
        for statement in ("CREATE SCHEMA IF NOT EXISTS vsync", *statements):
            connection.execute(statement.encode())


def tables(database: Database) -> set[str]:
    with psycopg.connect(database.owner) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'vsync'").fetchall()
    return {row[0] for row in rows}


@pytest.mark.both_versions
async def test_the_version_of_golang_migrate_is_adopted_without_executing_files(
    empty_database: Database, tmp_path: Path
) -> None:
    target = target_of(empty_database, write_files(tmp_path, FILES))
    execute(empty_database, GOLANG_MIGRATE, "INSERT INTO vsync.schema_migrations VALUES (1085649617, false)")
    commands = (
        run_migrations,
        lambda target: run_migrations(target, Down()),
        fetch_status,
        find_problems,
        lambda target: force_version(target, 1),
    )
    for command in commands:
        with pytest.raises(MigrateError, match=r"is the table of golang-migrate: `vsyncd migrate adopt` adopts"):
            command(target)
    async with await psycopg.AsyncConnection.connect(empty_database.owner, autocommit=True) as connection:
        assert await MigrationStore("vsync").fetch_versions(connection) == {}

    assert adopt_version(target) == 1085649617
    assert current_versions(target.conninfo, "vsync") == {"vsync": 1085649617}
    assert tables(empty_database) == {"schema_migrations", "schema_migrations_dirty", KEPT_TABLE}
    with pytest.raises(MigrateError, match=r"is already vsyncd's own table"):
        adopt_version(target)
    assert [str(step.migration) for step in run_migrations(target)] == ["vsync/20261129101500_orders"]
    assert "orders" in tables(empty_database)
    assert find_problems(target).problems == ()


@pytest.mark.both_versions
def test_down_past_a_missing_down_file_is_refused_before_anything_runs(
    empty_database: Database, tmp_path: Path
) -> None:
    target = target_of(empty_database, write_files(tmp_path, FILES))
    run_migrations(target)
    assert current_versions(target.conninfo, "vsync") == {"vsync": 20261129101500}
    before = tables(empty_database)
    refusal = r"vsync/1085649617_add-emails cannot be reverted: .*Nothing was executed"
    for refused in (
        lambda: run_migrations(target, Down(2)),
        lambda: run_migrations(target, Down(None)),
        lambda: run_migrations(target, Goto(1)),
        lambda: preview(target, Down(2)),
    ):
        with pytest.raises(MigrateError, match=refusal):
            refused()
    assert tables(empty_database) == before
    assert [str(step.migration) for step in run_migrations(target, Down())] == ["vsync/20261129101500_orders"]


def test_a_dirty_version_is_not_adopted(empty_database: Database, tmp_path: Path) -> None:
    target = target_of(empty_database, write_files(tmp_path, FILES))
    execute(empty_database, GOLANG_MIGRATE, "INSERT INTO vsync.schema_migrations VALUES (1085649617, true)")
    with pytest.raises(MigrateError, match=r"version 1085649617 is dirty: .* Repair the database by hand"):
        adopt_version(target)
    assert tables(empty_database) == {"schema_migrations"}
    execute(empty_database, "UPDATE vsync.schema_migrations SET version = 1, dirty = false")
    assert adopt_version(target) == 1


def test_a_version_without_a_file_is_not_adopted(empty_database: Database, tmp_path: Path) -> None:
    target = target_of(empty_database, write_files(tmp_path, FILES))
    execute(empty_database, GOLANG_MIGRATE, "INSERT INTO vsync.schema_migrations VALUES (7, false)")
    with pytest.raises(MigrateError, match="version 7 does not exist"):
        adopt_version(target)
    assert tables(empty_database) == {"schema_migrations"}


def test_a_table_of_golang_migrate_without_a_version_is_adopted_as_0(empty_database: Database, tmp_path: Path) -> None:
    target = target_of(empty_database, write_files(tmp_path, FILES))
    execute(empty_database, GOLANG_MIGRATE)
    assert adopt_version(target) == 0
    assert len(run_migrations(target)) == 3


def test_adopting_vsyncds_own_files_grants_the_service_its_privileges(
    empty_database: Database,
) -> None:
    own = MigrationTarget(conninfo=empty_database.owner, lock_timeout=60, service_user=SERVICE, sets=("core", "vsync"))
    run_migrations(own)
    latest = latest_versions()
    execute(
        empty_database,
        "DROP TABLE vsync.schema_migrations, vsync.schema_migrations_dirty",
        GOLANG_MIGRATE,
        f"INSERT INTO vsync.schema_migrations VALUES ({latest['vsync']}, false)",  # noqa: S608 - a number
    )
    assert adopt_version(replace(own, sets=("vsync",))) == latest.pop("vsync")
    for name, version in latest.items():
        force_version(replace(own, sets=(name,)), version)
    assert run_migrations(own) == ()
    assert find_problems(own).problems == ()
    with psycopg.connect(empty_database.service) as service:
        service.execute("SELECT FROM vsync.schema_migrations")


@pytest.mark.parametrize(
    ("table", "tool"),
    [
        ("schema_migrations (version varchar(128) PRIMARY KEY)", "dbmate or Rails"),
        ("schema_migrations (id text, applied_at timestamptz)", "another tool"),
    ],
)
def test_the_table_of_another_tool_is_reported_and_not_changed(
    empty_database: Database, tmp_path: Path, table: str, tool: str
) -> None:
    target = target_of(empty_database, write_files(tmp_path, FILES))
    execute(empty_database, f"CREATE TABLE vsync.{table}")
    with pytest.raises(MigrateError, match=rf"is the table of {tool}: vsyncd cannot adopt it"):
        run_migrations(target)
    with pytest.raises(MigrateError, match=rf"is the table of {tool}: vsyncd cannot adopt it"):
        adopt_version(target)
    assert tables(empty_database) == {"schema_migrations"}
    execute(empty_database, "ALTER TABLE vsync.schema_migrations RENAME TO other_tool")
    force_version(target, 1085649617)
    assert [str(step.migration) for step in run_migrations(target)] == ["vsync/20261129101500_orders"]


def test_without_a_table_of_golang_migrate_there_is_nothing_to_adopt(empty_database: Database, tmp_path: Path) -> None:
    target = target_of(empty_database, write_files(tmp_path, FILES))
    with pytest.raises(MigrateError, match=r"the table vsync\.schema_migrations of golang-migrate does not exist"):
        adopt_version(target)
    execute(empty_database, "CREATE TABLE vsync.flyway_schema_history (installed_rank integer)")
    with pytest.raises(MigrateError, match=r"flyway_schema_history is the table of Flyway: .*migrate force V"):
        adopt_version(target)


@pytest.mark.both_versions
def test_the_highest_version_of_63_bits_is_stored(empty_database: Database, tmp_path: Path) -> None:
    last = f"vsync/{2**63 - 1}_b.up"
    target = target_of(
        empty_database, write_files(tmp_path, {last: "-- vsyncd: no transaction\nSELECT 1;\nSELECT 1 / 0"})
    )
    with pytest.raises(StatementFailed, match=r"`vsyncd migrate up --set vsync` to resume"):
        run_migrations(target)
    write_files(tmp_path, {last: "-- vsyncd: no transaction\nSELECT 1"})
    force_version(target, 2**63 - 1)
    assert current_versions(target.conninfo, "vsync") == {"vsync": 2**63 - 1}
