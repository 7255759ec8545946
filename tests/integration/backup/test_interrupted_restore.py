"""A restore that is interrupted leaves the target unchanged, and a backup in use is not removed."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest
from vsyncd.backup.errors import RestoreFailed
from vsyncd.backup.manager import Backups, CleanupResult
from vsyncd.backup.records import Retention
from vsyncd.backup.store import FolderStore
from vsyncd.backup.tasks import Progress, Task

from tests.harness.backups import (
    InThread,
    backups_in,
    content,
    databases_of,
    drop,
    environment,
    has_ended,
    into,
    only,
)
from tests.harness.cids import execute, rows
from tests.harness.clusters import Database, Databases
from tests.harness.owners import until

Fresh = Callable[[int], Databases]


GATE = f"gate_{uuid4().hex[:8]}"


_COMMAND = "import sys; from vsyncd.cli import main; main()"


@pytest.fixture(scope="module")
def gated(databases: Fresh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backups]:
    """A backup whose restore waits while a role GATE exists: the check of a row waits for its removal."""
    with databases(18).fresh() as database:
        execute(
            database,
            """CREATE FUNCTION vsync.gate() RETURNS boolean LANGUAGE plpgsql AS $$
                BEGIN
                    WHILE EXISTS (SELECT FROM pg_roles WHERE rolname = 'GATE') LOOP PERFORM pg_sleep(0.02); END LOOP;
                    RETURN true;
                END $$;
                CREATE TABLE vsync.GATE (passed boolean CHECK (passed = vsync.gate()));
                INSERT INTO vsync.GATE VALUES (true)""".replace("GATE", GATE),
        )
        backups = backups_in(database.admin, tmp_path_factory.mktemp("gated"))
        backups.create()
        yield backups


@contextlib.contextmanager
def held_back(target: Database) -> Iterator[None]:
    """Makes restores of `gated` wait while the context lasts."""
    with psycopg.connect(target.admin, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {GATE}".encode())
        try:
            yield
        finally:
            connection.execute(f"DROP ROLE {GATE}".encode())


def restoring(conninfo: str) -> list[int]:
    """The waiting sessions of pg_restore."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname LIKE 'vsyncd_restoring_%%' AND starts_with(query, %s)"
    with psycopg.connect(conninfo) as connection:
        return [row[0] for row in connection.execute(query, [f"COPY vsync.{GATE} "])]


def test_a_connection_lost_during_the_restore_leaves_the_target_unchanged(gated: Backups, database: Database) -> None:
    execute(database, "CREATE TABLE vsync.mine ()")
    before = databases_of(database.admin)
    with held_back(database):
        working = InThread(lambda: into(gated, database).restore(only(gated), replace_target=True))
        until(lambda: restoring(database.admin) != [])
        rows(database, "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", restoring(database.admin))
        with pytest.raises(RestoreFailed, match="pg_restore: "):
            working.result()
    assert "mine" in content(database.admin)
    until(lambda: databases_of(database.admin) <= before)  # concurrent tests have temporary databases too


def test_kill_9_leaves_the_target_unchanged_and_the_next_restore_removes_the_remains(
    gated: Backups, database: Database
) -> None:
    execute(database, "CREATE TABLE vsync.mine ()")
    folder = Path(str(gated.config.store.root))  # type: ignore[attr-defined]  # a FolderStore
    with held_back(database):
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, "backup", "restore", only(gated), "--force"],
            env=os.environ | environment(database, folder),
        )
        until(lambda: restoring(database.admin) != [])
        (child,) = psutil.Process(process.pid).children()
        children = [child, *child.children(recursive=True)]
        process.kill()
        process.wait()
    until(lambda: all(has_ended(each) for each in children))
    assert "mine" in content(database.admin)
    left = databases_of(database.admin)
    done = into(gated, database).restore(only(gated), replace_target=True)
    assert done.replaced is not None
    drop(database.admin, done.replaced)
    assert not {name for name in left & databases_of(database.admin) if name.startswith("vsyncd_restoring_")}


def with_expired_backup(gated: Backups, folder: Path) -> tuple[Backups, str]:
    """A copy of `gated`, in which it has expired because of a newer backup."""
    root: Path = gated.config.store.root  # type: ignore[attr-defined]  # a FolderStore
    shutil.copytree(root, folder)
    store = FolderStore(folder)
    backups = Backups(replace(gated.config, store=store, retention=Retention(days=1e-9, count=1)))
    backups.create()
    return backups, only(gated)


@pytest.mark.soak
@pytest.mark.parametrize("step", ["verify", "restore", "compare"])
def test_cleanup_keeps_a_backup_that_is_being_restored(
    gated: Backups, empty_database: Database, tmp_path: Path, step: str
) -> None:
    backups, old = with_expired_backup(gated, tmp_path / "backups")
    cleaned: list[CleanupResult] = []

    def clean_up(progress: Progress) -> None:
        if progress.step == step and not cleaned:
            cleaned.append(backups.cleanup())

    done = into(backups, empty_database).restore(old, Task(clean_up))
    assert done.database == empty_database.name
    assert [(each.removed, each.unfinished, each.in_use) for each in cleaned] == [([], [], [old])]
    assert backups.cleanup().removed == [old]


def test_cleanup_keeps_a_backup_that_is_being_verified(gated: Backups, tmp_path: Path) -> None:
    backups, old = with_expired_backup(gated, tmp_path / "backups")
    cleaned: dict[str, CleanupResult] = {}

    def clean_up(progress: Progress) -> None:
        if progress.step not in cleaned:
            cleaned[progress.step] = backups.cleanup()

    backups.verify(old, Task(clean_up), restore=True)
    assert [each.in_use for each in cleaned.values()] == [[old]] * 4
    assert backups.find(old).state == "restored"


@pytest.mark.soak
def test_a_pg_restore_whose_vsyncd_was_killed_still_prevents_removal(
    gated: Backups, database: Database, tmp_path: Path
) -> None:
    backups, old = with_expired_backup(gated, tmp_path / "backups")
    with held_back(database):
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, "backup", "restore", old, "--force"],
            env=os.environ | environment(database, tmp_path / "backups"),
        )
        until(lambda: restoring(database.admin) != [])
        (child,) = psutil.Process(process.pid).children()
        child.suspend()  # it would end when it next writes to standard error
        children = [child, *child.children(recursive=True)]
        process.kill()
        process.wait()
        assert backups.cleanup().in_use == [old]
        for each in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        until(lambda: all(has_ended(each) for each in children))
        assert backups.cleanup().removed == [old]
