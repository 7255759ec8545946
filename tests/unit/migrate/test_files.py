"""Migration files, and the plans made from them."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from vsyncd.migrate import (
    MAX_VERSION,
    BadMigrationFiles,
    MigrateError,
    Migration,
    MigrationTarget,
    Script,
    create_migration,
    default_root,
    discover,
    find_problems,
    latest_versions,
)
from vsyncd.migrate.plan import Down
from vsyncd.migrate.script import Options, read_options, read_script
from vsyncd.migrate.store import Applied


def write_files(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("SELECT 1")


def test_vsyncds_own_migrations_have_both_directions() -> None:
    migrations = discover()
    assert default_root().is_dir()
    assert migrations[0].name == "core"
    assert latest_versions(sets=("core", "vsync")) == {"core": migrations[0].version, "vsync": migrations[-1].version}
    for migration in migrations:
        assert read_script(migration, direction="up", schema="vsync").statements
        assert read_script(migration, direction="down", schema="vsync").statements


def test_the_core_set_is_first_and_the_others_are_sorted_by_name(tmp_path: Path) -> None:
    write_files(tmp_path, "zoo/000001_a.up.sql", "core/000001_a.up.sql", "core/000002_b_c.up.sql", "a/000001_a.up.sql")
    write_files(tmp_path, "a/000001_a.down.sql", "README.md", ".hidden/x", "a/notes.txt")
    found = discover(tmp_path)
    assert [str(migration) for migration in found] == [
        "core/000001_a",
        "core/000002_b_c",
        "a/000001_a",
        "zoo/000001_a",
    ]
    assert [migration.down is not None for migration in found] == [False, False, True, False]
    assert [str(migration) for migration in discover(tmp_path, sets=("zoo",))] == ["zoo/000001_a"]
    assert [each.set_name for each in discover(tmp_path, sets=("zoo", "core"))] == ["core", "core", "zoo"]


def test_files_of_golang_migrate_are_sorted_by_their_numbers(tmp_path: Path) -> None:
    write_files(tmp_path, "s/20261129101500_add-Users (v2).up.sql", "s/20261129101500_undo.down.sql", "s/2_b.up.sql")
    write_files(tmp_path, "s/010_c.x.up.sql", "s/1085649617_d.up.sql", "s/9223372036854775807_e.up.sql", "s/1_.up.sql")
    found = discover(tmp_path)
    assert [(migration.version, migration.name, migration.down is not None) for migration in found] == [
        (1, "", False),
        (2, "b", False),
        (10, "c.x", False),
        (1085649617, "d", False),
        (20261129101500, "add-Users (v2)", True),
        (2**63 - 1, "e", False),
    ]
    problems = find_problems(MigrationTarget(conninfo="", root=tmp_path), with_database=False).problems
    assert problems == (f"000003 to 000009 are missing in {tmp_path}/s; the next file is 010_c.x.up.sql",)


def test_a_file_named_rollback_is_the_down_file_of_its_version(tmp_path: Path) -> None:
    write_files(tmp_path, "s/001_initial_schema.sql", "s/001_rollback.sql", "s/002_add_rollback.sql")
    first, second = discover(tmp_path)
    assert (first.name, first.down and first.down.name) == ("initial_schema", "001_rollback.sql")
    assert (second.name, second.down) == ("add_rollback", None)


def test_files_whose_names_start_with_a_dot_are_ignored(tmp_path: Path) -> None:
    write_files(tmp_path, "s/000001_a.up.sql", "s/._000001_a.up.sql", "s/.#000001_a.up.sql", "s/.x.sql")
    assert [str(migration) for migration in discover(tmp_path)] == ["s/000001_a"]


@pytest.mark.parametrize("mark", ["-- migrate:up", "-- +goose Up", "-- +migrate Down"])
def test_a_file_with_both_directions_of_another_tool_is_refused(tmp_path: Path, mark: str) -> None:
    write_files(tmp_path, "s/20261129101500_a.sql")
    (tmp_path / "s/20261129101500_a.sql").write_text(f"\n{mark}\nCREATE TABLE a ();\n-- migrate:down\nDROP TABLE a")
    (migration,) = discover(tmp_path)
    with pytest.raises(BadMigrationFiles, match=r"a\.sql:2: .* is a marker of another migration tool"):
        read_script(migration, direction="up", schema="vsync")


def read(tmp_path: Path, text: str) -> Script:
    """Write the text to a file and read it."""
    write_files(tmp_path, "s/000001_a.up.sql")
    (tmp_path / "s/000001_a.up.sql").write_text(text)
    (migration,) = discover(tmp_path)
    return read_script(migration, direction="up", schema="vsync")


@pytest.mark.parametrize("head", ["", "-- vsyncd: no transaction"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("COPY t FROM STDIN;\n1\n\\.\n", "COPY FROM STDIN and COPY TO STDOUT need a client"),
        ('copy "vsync".t (a, b) from stdin with (format csv);\n1,"2\n\\.', "COPY FROM STDIN"),
        ("COPY BINARY t FROM STDIN", "COPY FROM STDIN"),
        ("COPY t TO STDOUT", "COPY FROM STDIN"),
        ("COPY (SELECT f(a) FROM t) TO /* here */ STDOUT CSV", "COPY FROM STDIN"),
        ("\\copy t from 'x.csv'", r"\\copy is a psql command"),
        ("\\i other.sql\nSELECT 1;", r"\\i is a psql command"),
        ("\\restrict abc", r"\\restrict is a psql command"),
        ("SELECT 'CREATE TABLE x ()' \\gexec", r"\\gexec is a psql command"),
    ],
)
def test_psql_commands_and_client_copies_are_refused_with_their_line(
    tmp_path: Path, head: str, text: str, message: str
) -> None:
    with pytest.raises(BadMigrationFiles, match=rf"a\.up\.sql:3: {message}"):
        read(tmp_path, f"{head}\nSELECT 1;\n{text}")


def test_a_psql_command_inside_a_statement_is_refused_with_its_own_line(tmp_path: Path) -> None:
    with pytest.raises(BadMigrationFiles, match=r"a\.up\.sql:2: \\set is a psql command"):
        read(tmp_path, "SELECT 1\n\\set x 1\n;")


@pytest.mark.parametrize(
    "text",
    [
        "COPY t FROM '/tmp/x'",
        "COPY t FROM PROGRAM 'cat stdin'",
        "COPY (SELECT f(a) FROM stdin) TO '/tmp/x'",
        "SELECT 'COPY t FROM STDIN', '\\copy', E'\\\\', $$\\i x$$, 1 AS \"\\\"",
        "-- \\copy t from 'x'\nSELECT 1",
        "SAVEPOINT a; SELECT 1; ROLLBACK TO SAVEPOINT a; ROLLBACK WORK TO a; RELEASE SAVEPOINT a",
    ],
)
def test_text_that_resembles_psql_commands_or_commits_is_accepted(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).statements


@pytest.mark.parametrize(
    "text", ["ROLLBACK", "COMMIT AND CHAIN", "END", "ABORT", "START TRANSACTION", "BEGIN", "PREPARE TRANSACTION 'x'"]
)
def test_statements_that_end_the_transaction_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadMigrationFiles, match=r"a\.up\.sql:2: .* would end the migration's transaction"):
        read(tmp_path, f"SELECT 1;\n{text}")


def test_savepoints_are_refused_outside_a_transaction_and_prepared_transactions_inside(tmp_path: Path) -> None:
    with pytest.raises(BadMigrationFiles, match=r"a\.up\.sql:2: SAVEPOINT A needs a transaction"):
        read(tmp_path, "-- vsyncd: no transaction\nSAVEPOINT a")
    with pytest.raises(BadMigrationFiles, match=r"a\.up\.sql:1: COMMIT PREPARED cannot run in a transaction"):
        read(tmp_path, "COMMIT PREPARED 'x'")
    assert read(tmp_path, "-- vsyncd: no transaction\nROLLBACK PREPARED 'x'").statements


@pytest.mark.parametrize("edges", [("BEGIN", "COMMIT"), ("begin work", "end"), ("START TRANSACTION", "COMMIT WORK")])
def test_a_transaction_around_the_whole_file_is_ignored(tmp_path: Path, edges: tuple[str, str]) -> None:
    script = read(tmp_path, f"-- Users.\n{edges[0]};\nSELECT 1;\n{edges[1]};\n")
    assert [(each.text, each.line) for each in script.statements] == [("SELECT 1", 3)]
    with pytest.raises(BadMigrationFiles, match="would end the migration's transaction"):
        read(tmp_path, "BEGIN; SELECT 1; COMMIT; BEGIN; SELECT 2; COMMIT")
    with pytest.raises(BadMigrationFiles, match="would end the migration's transaction"):
        read(tmp_path, "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT")


def test_text_with_a_nul_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadMigrationFiles, match="contains a NUL character"):
        read(tmp_path, "SELECT 1;\0DROP TABLE t")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["s/000001_a.up.sql", "s/000001_b.up.sql"], "have the same version"),
        (["s/000001_a.down.sql"], "has no up file"),
        (["s/000000_a.up.sql"], "has the version 0, which is reserved for an empty set"),
        (["s/1_a.up.sql", "s/001_a.up.sql"], "have the same version"),
        (["s/1_a.up.sql", "s/01_b.sql"], "have the same version"),
        (["s/1_a.up.sql", "s/1_a.down.sql", "s/001_rollback.sql"], "have the same version"),
        (["s/001_rollback.sql"], "has no up file"),
        (["s/a.up.sql", "s/b.up.sql"], r"a\.up\.sql is not named .*; .*b\.up\.sql is not named"),
        (["s/V1__a.sql"], "is not named <version>_<name>.up.sql"),
        (["s/1a.up.sql"], "is not named <version>_<name>.up.sql"),
        (["s/-1_a.up.sql"], "is not named <version>_<name>.up.sql"),
        (["s/9223372036854775808_a.up.sql"], "has a version above 9223372036854775807"),
    ],
)
def test_invalid_sets_of_files_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    write_files(tmp_path, *names)
    with pytest.raises(BadMigrationFiles, match=message):
        discover(tmp_path)


def test_gaps_in_the_versions_are_reported_and_accepted(tmp_path: Path) -> None:
    write_files(tmp_path, "s/000002_b.up.sql", "s/000004_d.up.sql", "s/000004_d.down.sql")
    write_files(tmp_path, "s/000900_e.up.sql", "s/000900_e.down.sql")
    assert [(migration.previous, migration.version) for migration in discover(tmp_path)] == [(0, 2), (2, 4), (4, 900)]
    problems, warnings = find_problems(MigrationTarget(conninfo="", root=tmp_path), with_database=False)
    assert problems == (
        f"000001 is missing in {tmp_path}/s; the next file is 000002_b.up.sql",
        f"000003 is missing in {tmp_path}/s; the next file is 000004_d.up.sql",
        f"000005 to 000899 are missing in {tmp_path}/s; the next file is 000900_e.up.sql",
    )
    assert warnings == (f"{tmp_path}/s/000002_b.up.sql has no down file: it cannot be reverted",)


def test_every_problem_of_every_file_is_reported(tmp_path: Path) -> None:
    write_files(
        tmp_path, "a/000001_a.up.sql", "a/000001_b.up.sql", "b/000001_b.up.sql", "b/000001_b.down.sql", "b/x.sql"
    )
    (tmp_path / "b/000001_b.up.sql").write_text("-- vsyncd: no transactions\nSELECT 1")
    (tmp_path / "b/000001_b.down.sql").write_text("DROP INDEX CONCURRENTLY i")
    problems, warnings = find_problems(MigrationTarget(conninfo="", root=tmp_path), with_database=False)
    assert len(problems) == 4
    assert [warning.rpartition("/")[2] for warning in warnings] == [
        "000001_b.up.sql has no down file: it cannot be reverted"
    ]
    for text in ("000001_b.up.sql in", "x.sql is not named", "up.sql:1: invalid options; -- vsyncd: takes"):
        assert any(text in problem for problem in problems), text
    assert problems[-1].endswith(
        "b/000001_b.down.sql:1: DROP INDEX CONCURRENTLY I cannot run in a transaction: start the file with the line"
        " -- vsyncd: no transaction"
    )


def test_vsyncds_own_files_have_no_problems() -> None:
    assert find_problems(MigrationTarget(conninfo=""), with_database=False).problems == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1", Options()),
        ("-- Adds one.\n-- vsyncd: no transaction\nSELECT 1", Options(transaction=False, statement_timeout=0)),
        ("SELECT 1;\n-- vsyncd: no transaction\n", Options()),
        ("\n-- vsyncd: no transaction\nSELECT 1", Options(transaction=False, statement_timeout=0)),
        (
            "-- vsyncd: repeatable, no transaction",
            Options(transaction=False, repeatable=True, statement_timeout=0),
        ),
        (
            "-- vsyncd: lock_timeout = 500ms, statement_timeout=2h",
            Options(lock_timeout=500, statement_timeout=7_200_000),
        ),
        (
            "--vsyncd:no transaction,statement_timeout = 10min, lock_timeout=0",
            Options(transaction=False, lock_timeout=0, statement_timeout=600_000),
        ),
    ],
)
def test_the_options_are_read_from_the_first_comment(tmp_path: Path, text: str, expected: Options) -> None:
    assert read_options(text, tmp_path) == expected


@pytest.mark.parametrize(
    "options",
    [
        "",
        "lock_timeout",
        "lock_timeout = 5",
        "statement_timeout = 5 days",
        "fast",
        "no transaction, repeat",
        # Only valid together with no transaction.
        "repeatable",
        "repeatable, lock_timeout = 5s",
    ],
)
def test_unknown_options_are_refused(tmp_path: Path, options: str) -> None:
    with pytest.raises(
        BadMigrationFiles, match=r"a\.sql:2: invalid options; -- vsyncd: takes no transaction, lock_timeout = TIME"
    ):
        read_options(f"\n-- vsyncd: {options}\n", tmp_path / "a.sql")


def test_a_new_migration_gets_the_next_version_of_its_set(tmp_path: Path) -> None:
    write_files(tmp_path, "vsync/000001_a.up.sql", "vsync/000007_b.up.sql")
    paths = create_migration("Add  account-index", root=tmp_path)
    assert [path.name for path in paths] == ["000008_add_account_index.up.sql", "000008_add_account_index.down.sql"]
    create_migration("first", set_name="payments", root=tmp_path)
    assert latest_versions(tmp_path) == {"vsync": 8, "payments": 1}
    for name, set_name in (("", "vsync"), ("1st", "vsync"), ("a;b", "vsync"), ("a", "../up"), ("a", "Up")):
        with pytest.raises(MigrateError, match="name consists of"):
            create_migration(name, set_name=set_name, root=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MigrateError, match="cannot be written to"):
        create_migration("a", root=tmp_path / "file")


def test_a_new_migration_can_have_a_timestamp(tmp_path: Path) -> None:
    write_files(tmp_path, "s/000007_b.up.sql")
    before = datetime.now(UTC).replace(microsecond=0)
    up, down = create_migration("c", set_name="s", root=tmp_path, timestamp=True)
    made = datetime.strptime(up.name.partition("_")[0], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    assert before <= made <= datetime.now(UTC)
    assert down.name == up.name.replace(".up.", ".down.")
    write_files(tmp_path, "s/99991231235959_d.up.sql")
    up, _ = create_migration("e", set_name="s", root=tmp_path, timestamp=True)
    assert up.name == "99991231235960_e.up.sql", "the last version is later than the clock"
    write_files(tmp_path, f"s/{MAX_VERSION}_f.up.sql")
    with pytest.raises(MigrateError, match="no free version"):
        create_migration("g", set_name="s", root=tmp_path)


def test_the_error_names_a_missing_folder_or_set(tmp_path: Path) -> None:
    with pytest.raises(BadMigrationFiles, match="nowhere does not exist"):
        discover(tmp_path / "nowhere")
    with pytest.raises(BadMigrationFiles, match="contains no set payments"):
        discover(tmp_path, sets=("payments",))


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, "s/000001_a.up.sql")
    (tmp_path / "s/000001_a.up.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(BadMigrationFiles, match="cannot be read as UTF-8"):
        discover(tmp_path)


def test_a_byte_order_mark_is_not_part_of_the_first_statement(tmp_path: Path) -> None:
    content = "\ufeff-- vsyncd: no transaction\nSELECT 1".encode()
    write_files(tmp_path, "s/000001_a.up.sql")
    (tmp_path / "s/000001_a.up.sql").write_bytes(content)
    (migration,) = discover(tmp_path)
    script = read_script(migration, direction="up", schema="vsync")
    assert not script.options.transaction
    assert [(each.text, each.line) for each in script.statements] == [("SELECT 1", 2)]
    assert script.checksum == migration.checksum == hashlib.sha256(content).hexdigest()


def test_a_parameter_called_begin_does_not_hide_a_commit(tmp_path: Path) -> None:
    write_files(tmp_path, "s/000001_a.up.sql")
    function = "CREATE FUNCTION f(begin int) RETURNS int LANGUAGE sql AS 'SELECT 1'"
    (tmp_path / "s/000001_a.up.sql").write_text(f"{function};\nCOMMIT;\nSELECT 2")
    (migration,) = discover(tmp_path)
    with pytest.raises(BadMigrationFiles, match=r"a\.up\.sql:2: COMMIT would end the migration's transaction"):
        read_script(migration, direction="up", schema="vsync")


def test_a_migration_without_a_down_file_cannot_be_reverted(tmp_path: Path) -> None:
    write_files(tmp_path, "s/000001_a.up.sql")
    (migration,) = discover(tmp_path)
    with pytest.raises(MigrateError, match=r"s/000001_a\.down\.sql"):
        Down().plan([migration], [applied(migration)])
    with pytest.raises(MigrateError, match=r"s/000001_a\.down\.sql does not exist"):
        read_script(migration, direction="down", schema="vsync")


def test_down_reverts_the_versions_of_a_set_in_reverse_order_whatever_their_times(tmp_path: Path) -> None:
    names = ("s/000001_a", "s/000002_b", "s/000003_c", "t/000001_a")
    write_files(tmp_path, *(f"{name}.{direction}.sql" for name in names for direction in ("up", "down")))
    first, second, third, other = discover(tmp_path)
    by_time = [applied(migration) for migration in (second, first, other, third)]
    assert Down(None).plan([first, second, third, other], by_time).migrations == (third, other, second, first)
    by_time = [applied(migration) for migration in (third, other, first, second)]
    assert Down(2).plan([first, second, third, other], by_time).migrations == (third, second)


def applied(migration: Migration) -> Applied:
    return Applied(
        set_name=migration.set_name,
        version=migration.version,
        name=migration.name,
        checksum=migration.checksum,
        applied_at=datetime(2026, 1, 1, tzinfo=UTC),
        applied_by="owner",
        duration_ms=1,
    )
