"""Migrations as files, and what is planned from them."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from vsyncd.migrate import (
    BadMigrationFiles,
    CannotCreate,
    FileMissing,
    Migration,
    Target,
    create_migration,
    default_root,
    discover,
    find_problems,
    latest_versions,
)
from vsyncd.migrate.options import Options, read_options
from vsyncd.migrate.plan import plan_down
from vsyncd.migrate.script import read_script
from vsyncd.migrate.store import Applied


def lay(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("SELECT 1")


def test_vsyncds_own_files_can_go_forth_and_back() -> None:
    migrations = discover()
    assert default_root().is_dir()
    assert migrations[0].name == "core"
    assert latest_versions() == {"vsync": migrations[-1].version}
    for migration in migrations:
        assert read_script(migration, direction="up", schema="vsync").statements
        assert read_script(migration, direction="down", schema="vsync").statements


def test_sets_come_in_the_order_of_their_names_after_the_one_they_build_on(tmp_path: Path) -> None:
    lay(tmp_path, "zoo/000001_a.up.sql", "vsync/000001_a.up.sql", "vsync/000002_b_c.up.sql", "a/000001_a.up.sql")
    lay(tmp_path, "a/000001_a.down.sql", "README.md", ".hidden/x", "a/notes.txt")
    found = discover(tmp_path)
    assert [str(migration) for migration in found] == [
        "vsync/000001_a",
        "vsync/000002_b_c",
        "a/000001_a",
        "zoo/000001_a",
    ]
    assert [migration.down is not None for migration in found] == [False, False, True, False]
    assert [str(migration) for migration in discover(tmp_path, set_name="zoo")] == ["zoo/000001_a"]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["s/000001_a.up.sql", "s/000001_b.up.sql"], "have the same version"),
        (["s/000001_a.down.sql"], "has no up file"),
        (["s/000000_a.up.sql"], "has the version 0, which means that nothing is applied"),
        (["s/1_a.up.sql", "s/2_a.up.sql"], r"1_a\.up\.sql is not named .*; .*2_a\.up\.sql is not named"),
        (["s/1_a.up.sql"], "is not named NNNNNN_name"),
        (["s/000001_a.sql"], "is not named NNNNNN_name"),
        (["s/000001_A b.up.sql"], "is not named NNNNNN_name"),
    ],
)
def test_files_that_make_no_set_are_refused(tmp_path: Path, names: list[str], complaint: str) -> None:
    lay(tmp_path, *names)
    with pytest.raises(BadMigrationFiles, match=complaint):
        discover(tmp_path)


def test_numbers_that_are_left_out_are_complained_of_and_stop_nothing(tmp_path: Path) -> None:
    lay(tmp_path, "s/000002_b.up.sql", "s/000004_d.up.sql", "s/000004_d.down.sql")
    lay(tmp_path, "s/000900_e.up.sql", "s/000900_e.down.sql")
    assert [(migration.previous, migration.version) for migration in discover(tmp_path)] == [(0, 2), (2, 4), (4, 900)]
    problems = find_problems(Target(conninfo="", root=tmp_path), with_database=False)
    assert problems == (
        f"000001 is left out in {tmp_path}/s, which goes on with 000002_b.up.sql",
        f"000003 is left out in {tmp_path}/s, which goes on with 000004_d.up.sql",
        f"000005 to 000899 are left out in {tmp_path}/s, which goes on with 000900_e.up.sql",
        f"{tmp_path}/s/000002_b.up.sql has no down file: it could not be taken back",
    )


def test_every_flaw_of_every_file_is_named(tmp_path: Path) -> None:
    lay(tmp_path, "a/000001_a.up.sql", "a/000001_b.up.sql", "b/000001_b.up.sql", "b/000001_b.down.sql", "b/x.sql")
    (tmp_path / "b/000001_b.up.sql").write_text("-- vsyncd: no transactions\nSELECT 1")
    (tmp_path / "b/000001_b.down.sql").write_text("DROP INDEX CONCURRENTLY i")
    problems = find_problems(Target(conninfo="", root=tmp_path), with_database=False)
    assert len(problems) == 5
    for text in ("000001_b.up.sql in", "has no down file", "x.sql is not named", "up.sql:1: -- vsyncd: takes"):
        assert any(text in problem for problem in problems), text
    assert problems[-1].endswith(
        "b/000001_b.down.sql:1: DROP INDEX CONCURRENTLY I cannot run in a transaction: begin the file with the line"
        " -- vsyncd: no transaction"
    )


def test_vsyncds_own_files_are_without_flaw() -> None:
    assert find_problems(Target(conninfo=""), with_database=False) == ()


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
def test_the_first_comment_says_how_a_file_runs(tmp_path: Path, text: str, expected: Options) -> None:
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
        # A transaction leaves nothing to repeat.
        "repeatable",
        "repeatable, lock_timeout = 5s",
    ],
)
def test_an_option_that_there_is_not_is_refused(tmp_path: Path, options: str) -> None:
    with pytest.raises(BadMigrationFiles, match=r"a\.sql:2: -- vsyncd: takes no transaction, lock_timeout = TIME"):
        read_options(f"\n-- vsyncd: {options}\n", tmp_path / "a.sql")


def test_a_new_migration_gets_the_next_number_in_its_set(tmp_path: Path) -> None:
    lay(tmp_path, "vsync/000001_a.up.sql", "vsync/000007_b.up.sql")
    paths = create_migration("Add  account-index", root=tmp_path)
    assert [path.name for path in paths] == ["000008_add_account_index.up.sql", "000008_add_account_index.down.sql"]
    create_migration("first", set_name="payments", root=tmp_path)
    assert latest_versions(tmp_path) == {"vsync": 8, "payments": 1}
    for name, set_name in (("", "vsync"), ("1st", "vsync"), ("a;b", "vsync"), ("a", "../up"), ("a", "Up")):
        with pytest.raises(CannotCreate):
            create_migration(name, set_name=set_name, root=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreate, match="cannot be written to"):
        create_migration("a", root=tmp_path / "file")


def test_a_missing_folder_and_a_missing_set_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadMigrationFiles, match="there is no folder"):
        discover(tmp_path / "nowhere")
    with pytest.raises(BadMigrationFiles, match="there is no set payments"):
        discover(tmp_path, set_name="payments")


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, "s/000001_a.up.sql")
    (tmp_path / "s/000001_a.up.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(BadMigrationFiles, match="cannot be read as UTF-8"):
        discover(tmp_path)


def test_a_byte_order_mark_is_not_part_of_the_first_statement(tmp_path: Path) -> None:
    content = "\ufeff-- vsyncd: no transaction\nSELECT 1".encode()
    lay(tmp_path, "s/000001_a.up.sql")
    (tmp_path / "s/000001_a.up.sql").write_bytes(content)
    (migration,) = discover(tmp_path)
    script = read_script(migration, direction="up", schema="vsync")
    assert not script.options.transaction
    assert [(each.text, each.line) for each in script.statements] == [("SELECT 1", 2)]
    assert script.checksum == migration.checksum == hashlib.sha256(content).hexdigest()


def test_no_name_hides_a_commit(tmp_path: Path) -> None:
    lay(tmp_path, "s/000001_a.up.sql")
    function = "CREATE FUNCTION f(begin int) RETURNS int LANGUAGE sql AS 'SELECT 1'"
    (tmp_path / "s/000001_a.up.sql").write_text(f"{function};\nCOMMIT;\nSELECT 2")
    (migration,) = discover(tmp_path)
    with pytest.raises(BadMigrationFiles, match=r"a\.up\.sql:2: COMMIT would end the transaction"):
        read_script(migration, direction="up", schema="vsync")


def test_what_has_no_down_file_cannot_be_taken_back(tmp_path: Path) -> None:
    lay(tmp_path, "s/000001_a.up.sql")
    (migration,) = discover(tmp_path)
    with pytest.raises(FileMissing, match=r"s/000001_a\.down\.sql"):
        plan_down([migration], [applied(migration)])
    with pytest.raises(FileMissing, match=r"there is no s/000001_a\.down\.sql"):
        read_script(migration, direction="down", schema="vsync")


def test_versions_are_taken_back_from_the_last_to_the_first_whatever_the_clock_was(tmp_path: Path) -> None:
    names = ("s/000001_a", "s/000002_b", "s/000003_c", "t/000001_a")
    lay(tmp_path, *(f"{name}.{way}.sql" for name in names for way in ("up", "down")))
    first, second, third, other = discover(tmp_path)
    by_time = [applied(migration) for migration in (second, first, other, third)]
    assert plan_down([first, second, third, other], by_time) == (third, other, second, first)
    by_time = [applied(migration) for migration in (third, other, first, second)]
    assert plan_down([first, second, third, other], by_time, steps=2) == (third, second)


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
