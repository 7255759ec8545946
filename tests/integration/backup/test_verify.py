"""Verification finds changed backups and names the files."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from vsyncd.backup.errors import BackupDamaged, BackupError, BackupNotFound, RestoreFailed, Unrestorable
from vsyncd.backup.manager import Backups
from vsyncd.backup.manifest import read_manifest, write_manifest, write_sums
from vsyncd.backup.pg_tools import find_pg_tools
from vsyncd.backup.records import Retention

from tests.harness.backups import backups_in, databases_of, elsewhere
from tests.harness.catalog import fill
from tests.harness.cids import execute
from tests.harness.clusters import Database, Databases
from tests.harness.owners import until


@pytest.fixture(scope="module")
def source(databases: Callable[[int], Databases]) -> Iterator[Database]:
    """One database for all tests of this module, which do not change it."""
    with databases(18).fresh() as database:
        fill(database)
        yield database


@pytest.fixture(scope="module")
def original(source: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of `source` that tests copy."""
    folder = tmp_path_factory.mktemp("original")
    backups_in(source.admin, folder).create()
    return folder


@pytest.fixture
def backups(source: Database, original: Path, tmp_path: Path) -> Backups:
    """A copy of `original`."""
    shutil.copytree(original, tmp_path / "backups")
    return backups_in(source.admin, tmp_path / "backups")


@pytest.fixture
def copy(backups: Backups, tmp_path: Path) -> Path:
    """The folder of the copied backup."""
    return tmp_path / "backups" / backups.list()[0].name


def problems_of(backups: Backups) -> tuple[str, ...]:
    with pytest.raises(BackupDamaged) as caught:
        backups.verify(backups.list()[0].name)
    return caught.value.problems


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_an_intact_backup_is_listed_as_verified(backups: Backups) -> None:
    verification = backups.verify("latest")
    assert not verification.restored
    (listed,) = backups.list()
    assert (listed.state, listed.verification) == ("verified", verification)


def test_a_flipped_bit_in_any_file_is_found(backups: Backups, copy: Path) -> None:
    files = [path for path in copy.rglob("*") if path.is_file()]
    assert len(files) > 20
    for file in files:
        whole = file.read_bytes()
        flip(file, len(whole) // 2)
        problems = problems_of(backups)
        assert all(file.relative_to(copy).as_posix() in problem for problem in problems), problems
        assert [backup.state for backup in backups.list()] == ["damaged"]
        file.write_bytes(whole)
    backups.verify(copy.name)
    assert [backup.state for backup in backups.list()] == ["verified"]


def test_a_truncated_file_is_found_by_list_without_verification(backups: Backups, copy: Path) -> None:
    for file in [path for path in copy.rglob("*") if path.is_file()]:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert [backup.state for backup in backups.list()] == ["damaged"]
        assert all(file.relative_to(copy).as_posix() in problem for problem in problems_of(backups))
        file.write_bytes(whole)


def test_missing_and_unexpected_files_are_found(backups: Backups, copy: Path) -> None:
    (copy / "dump" / "toc.dat").rename(copy / "dump" / "other.dat")
    assert problems_of(backups) == (
        "dump/toc.dat: missing",
        "dump/other.dat: unexpected file",
    )
    (copy / "manifest.json").unlink()
    assert backups.list() == []


def test_a_damaged_backup_is_neither_latest_nor_restored(backups: Backups, copy: Path, source: Database) -> None:
    flip(copy / "dump" / "toc.dat", 1000)
    with pytest.raises(BackupDamaged, match=r"dump/toc\.dat"):
        elsewhere(backups, f"{source.admin} dbname=never_made").restore(copy.name)
    problems_of(backups)
    with pytest.raises(
        BackupNotFound, match=f"there is no good backup of .*; the newest backup is {copy.name}, damaged"
    ):
        backups.find("latest")


def test_a_restore_with_different_content_marks_it_as_damaged(backups: Backups, copy: Path, source: Database) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["content"]["tables"]["vsync.imports"] = 1
    manifest["content"]["cid_sets"][0]["vsync"] = "0" * 64
    changed = read_manifest(json.dumps(manifest).encode())
    (copy / "manifest.json").write_bytes(write_manifest(changed))
    (copy / "SHA256SUMS").write_bytes(write_sums(changed.files, write_manifest(changed)))
    backups.verify("latest")
    before = databases_of(source.admin)
    with pytest.raises(BackupDamaged) as caught:
        backups.verify("latest", restore=True)
    assert caught.value.problems == (
        "vsync.imports: 0 rows instead of 1",
        "the CID set of ISPB 11111111, key type 1 differs",
    )
    assert [backup.state for backup in backups.list()] == ["damaged"]
    until(lambda: databases_of(source.admin) <= before)  # concurrent tests have temporary databases too


def test_an_unrestorable_backup_does_not_replace_a_restored_one(database: Database, tmp_path: Path) -> None:
    backups = backups_in(database.admin, tmp_path)
    restorable = backups.create()
    assert backups.verify(restorable.name, restore=True).restored
    # pg_restore sets an empty search_path, with which the check does not find its table.
    execute(
        database,
        "CREATE TABLE public.known (id int); INSERT INTO public.known VALUES (1);"
        " CREATE FUNCTION public.is_known(int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 IN (SELECT id FROM known)';"
        " CREATE TABLE public.used (id int CHECK (public.is_known(id))); INSERT INTO public.used VALUES (1)",
    )
    unrestorable = backups.create()
    backups.verify(unrestorable.name)
    with pytest.raises(Unrestorable, match='relation "known" does not exist'):
        backups.verify(unrestorable.name, restore=True)
    assert [backup.state for backup in backups.list()] == ["restored", "unrestorable"]
    assert backups.find("latest").name == restorable.name

    backups.verify(unrestorable.name)
    assert backups.find(unrestorable.name).state == "unrestorable", (
        "reading the files does not change the result of the restore"
    )
    strict = Backups(replace(backups.config, retention=Retention(days=1e-9, count=1)))
    strict.cleanup()
    assert [backup.name for backup in strict.list()] == [restorable.name]
    execute(database, "DROP TABLE public.used")
    newest = backups.create()
    backups.verify(newest.name)
    strict.cleanup()
    assert [backup.name for backup in strict.list()] == [restorable.name, newest.name], (
        "the newer one has not been restored yet"
    )


def test_a_lost_connection_does_not_mark_the_backup_as_unrestorable(database: Database, tmp_path: Path) -> None:
    # Terminates the session that restores it.
    execute(
        database,
        "CREATE FUNCTION public.ends() RETURNS boolean LANGUAGE sql AS"
        " $$SELECT NOT starts_with(current_database(), 'vsyncd_restoring') OR pg_terminate_backend(pg_backend_pid())$$;"
        " CREATE TABLE public.ending (id int CHECK (public.ends())); INSERT INTO public.ending VALUES (1)",
    )
    backups = backups_in(database.admin, tmp_path)
    made = backups.create()
    with pytest.raises(RestoreFailed) as caught:
        backups.verify(made.name, restore=True)
    assert not isinstance(caught.value, Unrestorable), caught.value
    assert backups.find("latest").state == "unverified"


def test_tools_older_than_the_dump_are_refused(source: Database, copy: Path) -> None:
    old = backups_in(source.admin, copy.parent, pg_bin=find_pg_tools(16).folder)
    with pytest.raises(Exception, match="BACKUP_PG_BIN") as caught:
        old.verify("latest")
    assert not isinstance(caught.value, BackupDamaged)
    assert [backup.state for backup in old.list()] == ["unverified"]


def test_a_manifest_of_a_newer_vsyncd_is_reported(backups: Backups, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes()) | {"format_version": 2}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert backups.list()[0].problems == ("manifest.json: written by a newer vsyncd",)


def test_a_backup_with_unknown_migrations_is_refused(backups: Backups, source: Database) -> None:
    with pytest.raises(BackupError, match=r"migration \d+ of the set core, .* with vsyncd 1\.2\.3 or newer"):
        elsewhere(backups, f"{source.admin} dbname=never_made", known_migrations={}).restore(backups.list()[0].name)
