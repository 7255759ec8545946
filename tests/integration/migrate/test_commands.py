"""The commands goto, force, preview, status and validate."""

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from vsyncd.migrate import (
    Down,
    Goto,
    MigrateError,
    MigrationTarget,
    State,
    Up,
    current_versions,
    discover,
    fetch_status,
    find_problems,
    force_version,
    preview,
    run_migrations,
)

from tests.harness.clusters import SERVICE, Database
from tests.harness.migrations import labels, write_files

FILES = {
    f"{set_name}/{number:06d}_{name}.{direction}": f'{verb} TABLE "vsync".{set_name}_{name}{end}'
    for set_name in ("vsync", "wallets")
    for number, name in ((1, "a"), (2, "b"), (3, "c"))
    for direction, verb, end in (("up", "CREATE", " ()"), ("down", "DROP", ""))
}


@pytest.fixture
def target(empty_database: Database, tmp_path: Path) -> MigrationTarget:
    return MigrationTarget(conninfo=empty_database.owner, root=write_files(tmp_path, FILES), lock_timeout=60)


def tables(target: MigrationTarget) -> set[str]:
    with psycopg.connect(target.conninfo) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'vsync'").fetchall()
    return {row[0] for row in rows if not row[0].startswith("schema_")}


def states(target: MigrationTarget) -> dict[str, State]:
    return {f"{each.set_name}/{each.version}": each.state for each in fetch_status(target)}


def test_goto_migrates_one_set_to_any_version_and_leaves_the_others(target: MigrationTarget) -> None:
    wallets = replace(target, sets=("wallets",))
    assert labels(run_migrations(target, Goto(2))) == ["up vsync/000001_a", "up vsync/000002_b"]
    assert labels(run_migrations(wallets, Goto(3)))[-1] == "up wallets/000003_c"
    assert labels(run_migrations(wallets, Goto(1))) == ["down wallets/000003_c", "down wallets/000002_b"]
    assert run_migrations(wallets, Goto(1)) == ()
    assert current_versions(target.conninfo, "vsync") == {"wallets": 1, "vsync": 2}
    assert tables(target) == {"vsync_a", "vsync_b", "wallets_a"}
    assert labels(run_migrations(target, Goto(0))) == ["down vsync/000002_b", "down vsync/000001_a"]
    with pytest.raises(MigrateError, match="version 4 does not exist: the last file has version 3"):
        run_migrations(target, Goto(4))


def test_force_records_a_version_and_runs_nothing(target: MigrationTarget) -> None:
    run_migrations(target)
    force_version(target, 1)
    assert states(target) == {
        "vsync/1": State.APPLIED,
        "vsync/2": State.PENDING,
        "vsync/3": State.PENDING,
        **{f"wallets/{number}": State.APPLIED for number in (1, 2, 3)},
    }
    assert len(tables(target)) == 6
    force_version(replace(target, sets=("wallets",)), 0)
    force_version(target, 3)
    assert current_versions(target.conninfo, "vsync") == {"vsync": 3}
    with pytest.raises(MigrateError, match="version 9 does not exist"):
        force_version(target, 9)


def test_force_records_the_checksum_of_a_changed_file(target: MigrationTarget, tmp_path: Path) -> None:
    run_migrations(target)
    write_files(tmp_path, {"vsync/000001_a.up": 'CREATE TABLE "vsync".vsync_a () -- equal'})
    assert states(target)["vsync/1"] is State.CHANGED
    with pytest.raises(MigrateError, match="was changed after it was applied"):
        run_migrations(target)
    force_version(target, 3)
    assert run_migrations(target) == ()
    assert find_problems(target).problems == ()


def test_a_preview_returns_the_scripts_and_changes_nothing(target: MigrationTarget, tmp_path: Path) -> None:
    def previewed(*, of: Up | Down | Goto) -> list[str]:
        return [script.path.relative_to(tmp_path).as_posix() for script in preview(target, of)]

    assert previewed(of=Up(2)) == ["vsync/000001_a.up.sql", "vsync/000002_b.up.sql"]
    assert len(previewed(of=Up())) == 6
    with psycopg.connect(target.conninfo) as connection:
        assert connection.execute("SELECT to_regnamespace('vsync')").fetchone() == (None,)
    run_migrations(target, Up(2))
    assert previewed(of=Down()) == ["vsync/000002_b.down.sql"]
    assert previewed(of=Down(None)) == ["vsync/000002_b.down.sql", "vsync/000001_a.down.sql"]
    assert previewed(of=Goto(3)) == ["vsync/000003_c.up.sql"]
    assert previewed(of=Goto(0)) == ["vsync/000002_b.down.sql", "vsync/000001_a.down.sql"]
    assert previewed(of=Up(1)) == ["vsync/000003_c.up.sql"]


def test_every_state_is_reported_with_its_problem(target: MigrationTarget, tmp_path: Path) -> None:
    run_migrations(target, Up(5))
    write_files(tmp_path, {"vsync/000002_b.up": "SELECT 2"})
    (tmp_path / "vsync/000003_c.up.sql").unlink()
    (tmp_path / "vsync/000003_c.down.sql").unlink()
    (tmp_path / "wallets/000002_b.down.sql").unlink()
    with psycopg.connect(target.conninfo) as connection:
        connection.execute("DELETE FROM vsync.schema_migrations WHERE set_name = 'wallets' AND version = 1")

    assert states(target) == {
        "vsync/1": State.APPLIED,
        "vsync/2": State.CHANGED,
        "vsync/3": State.MISSING,
        "wallets/1": State.LATE,
        "wallets/2": State.APPLIED,
        "wallets/3": State.PENDING,
    }
    problems, warnings = find_problems(target)
    assert warnings == (f"{tmp_path}/wallets/000002_b.up.sql has no down file: it cannot be reverted",)
    assert [problem.partition(" ")[2][:45] for problem in problems] == [
        "of the set vsync was changed after it was app",
        "is applied but has no file: the file was lost",
        "is not applied, but a later version of its se",
    ]
    assert find_problems(target, with_database=False) == ((), warnings)
    with pytest.raises(MigrateError, match="cannot be reverted: "):
        run_migrations(replace(target, sets=("vsync",)), Down())
    with pytest.raises(MigrateError, match="give it the next free number"):
        run_migrations(replace(target, sets=("wallets",)))


def test_a_gap_in_the_versions_is_reported_and_does_not_prevent_migrating(
    target: MigrationTarget, tmp_path: Path
) -> None:
    write_files(
        tmp_path, {"vsync/000005_e.up": 'CREATE TABLE "vsync".e ()', "vsync/000005_e.down": 'DROP TABLE "vsync".e'}
    )
    own = replace(target, sets=("vsync",))
    run_migrations(own)
    assert current_versions(target.conninfo, "vsync") == {"vsync": 5}
    assert find_problems(own).problems == (f"000004 is missing in {tmp_path}/vsync; the next file is 000005_e.up.sql",)
    assert labels(run_migrations(own, Goto(2))) == ["down vsync/000005_e", "down vsync/000003_c"]


@pytest.mark.both_versions
def test_a_missing_table_of_dirty_sets_is_created(empty_database: Database) -> None:
    target = MigrationTarget(conninfo=empty_database.owner, service_user=SERVICE)
    run_migrations(target, Up(1))
    with psycopg.connect(empty_database.owner) as connection:
        connection.execute("DROP TABLE vsync.schema_migrations_dirty")
        columns = connection.execute(
            "SELECT string_agg(column_name, ' ' ORDER BY ordinal_position) FROM information_schema.columns"
            " WHERE table_name = 'schema_migrations'"
        ).fetchone()
    assert columns == ("set_name version name checksum applied_at applied_by duration_ms",)
    assert states(target)["vsync/2"] is State.PENDING
    assert len(preview(target, Up())) == len(discover()) - 1
    run_migrations(target)
    assert set(states(target).values()) == {State.APPLIED}
    with psycopg.connect(empty_database.service) as service:
        service.execute("SELECT FROM vsync.schema_migrations_dirty")
