"""Migrations as files, and what is planned from them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from vsyncd.migrate import BadMigrationFiles, FileMissing, Migration, default_root, discover, latest_versions
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
    assert latest_versions() == {"vsync": len(migrations)}
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
        (["s/000002_b.up.sql"], "has a version 000002 and no 000001"),
        (["s/000001_a.up.sql", "s/000003_a.up.sql"], "has a version 000003 and no 000002"),
        (["s/000001_a.down.sql"], "has no up file"),
        (["s/1_a.up.sql"], "is not named NNNNNN_name"),
        (["s/000001_a.sql"], "is not named NNNNNN_name"),
        (["s/000001_A b.up.sql"], "is not named NNNNNN_name"),
    ],
)
def test_files_that_make_no_set_are_refused(tmp_path: Path, names: list[str], complaint: str) -> None:
    lay(tmp_path, *names)
    with pytest.raises(BadMigrationFiles, match=complaint):
        discover(tmp_path)


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


def test_what_has_no_down_file_cannot_be_taken_back(tmp_path: Path) -> None:
    lay(tmp_path, "s/000001_a.up.sql")
    (migration,) = discover(tmp_path)
    with pytest.raises(FileMissing, match=r"s/000001_a\.down\.sql"):
        plan_down([migration], [applied(migration)])
    with pytest.raises(FileMissing, match="has no down file"):
        read_script(migration, direction="down", schema="vsync")


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
