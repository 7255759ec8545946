"""A backup that is not what was written is found out, and the file is named."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from vsyncd.backup.errors import BackupDamaged, BackupNotFound, RestoreFailed, Unrestorable, VersionMismatch
from vsyncd.backup.manager import Backups
from vsyncd.backup.manifest import read_manifest, write_manifest, write_sums
from vsyncd.backup.pg_tools import find_pg_tools
from vsyncd.backup.retention import Retention

from tests.harness.backups import backups_in, databases_of, elsewhere
from tests.harness.catalog import fill
from tests.harness.cids import execute
from tests.harness.clusters import Database, Databases
from tests.harness.owners import until


@pytest.fixture(scope="module")
def source(databases: Callable[[int], Databases]) -> Iterator[Database]:
    """One database for all of these tests, which do not change it."""
    with databases(18).fresh() as database:
        fill(database)
        yield database


@pytest.fixture(scope="module")
def original(source: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it, to be copied."""
    folder = tmp_path_factory.mktemp("original")
    backups_in(source.admin, folder).create()
    return folder


@pytest.fixture
def backups(source: Database, original: Path, tmp_path: Path) -> Backups:
    """A copy of the backup."""
    shutil.copytree(original, tmp_path / "backups")
    return backups_in(source.admin, tmp_path / "backups")


@pytest.fixture
def copy(backups: Backups, tmp_path: Path) -> Path:
    """The folder of that copy."""
    return tmp_path / "backups" / backups.list()[0].name


def problems_of(backups: Backups) -> tuple[str, ...]:
    with pytest.raises(BackupDamaged) as caught:
        backups.verify(backups.list()[0].name)
    return caught.value.problems


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_whole_one_is_verified_and_the_list_says_so(backups: Backups) -> None:
    verification = backups.verify("latest")
    assert not verification.restored
    (listed,) = backups.list()
    assert (listed.state, listed.verification) == ("verified", verification)


def test_a_flipped_byte_in_any_file_is_found_and_the_file_named(backups: Backups, copy: Path) -> None:
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


def test_a_truncated_file_is_found_by_the_list_already(backups: Backups, copy: Path) -> None:
    for file in [path for path in copy.rglob("*") if path.is_file()]:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert [backup.state for backup in backups.list()] == ["damaged"]
        assert all(file.relative_to(copy).as_posix() in problem for problem in problems_of(backups))
        file.write_bytes(whole)


def test_a_file_that_is_missing_or_does_not_belong_there(backups: Backups, copy: Path) -> None:
    (copy / "dump" / "toc.dat").rename(copy / "dump" / "other.dat")
    assert problems_of(backups) == (
        "dump/toc.dat: it is missing",
        "dump/other.dat: it does not belong here",
    )
    (copy / "manifest.json").unlink()
    assert backups.list() == []


def test_a_damaged_one_is_not_the_latest_and_not_restored(backups: Backups, copy: Path, source: Database) -> None:
    flip(copy / "dump" / "toc.dat", 1000)
    with pytest.raises(BackupDamaged, match=r"dump/toc\.dat"):
        elsewhere(backups, f"{source.admin} dbname=never_made").restore(copy.name)
    problems_of(backups)
    with pytest.raises(BackupNotFound, match=f"there is no good backup of .*; the newest is {copy.name}, damaged"):
        backups.find("latest")


def test_a_restore_that_comes_to_something_else_is_damage(backups: Backups, copy: Path, source: Database) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["census"]["tables"]["vsync.imports"] = 1
    manifest["census"]["cid_sets"][0]["vsync"] = "0" * 64
    changed = read_manifest(json.dumps(manifest).encode())
    (copy / "manifest.json").write_bytes(write_manifest(changed))
    (copy / "SHA256SUMS").write_bytes(write_sums(changed.files, write_manifest(changed)))
    backups.verify("latest")
    before = databases_of(source.admin)
    with pytest.raises(BackupDamaged) as caught:
        backups.verify("latest", restore=True)
    assert caught.value.problems == (
        "vsync.imports: 0 rows, and 1 were dumped",
        "the CID set of ispb 11111111, key type 1 is another one",
    )
    assert [backup.state for backup in backups.list()] == ["damaged"]
    until(lambda: databases_of(source.admin) <= before)  # other tests have theirs for a while


def test_one_that_cannot_be_restored_is_not_kept_in_place_of_one_that_was(database: Database, tmp_path: Path) -> None:
    backups = backups_in(database.admin, tmp_path)
    restorable = backups.create()
    assert backups.verify(restorable.name, restore=True).restored
    # What a check finds along the search_path is not found by pg_restore, which has none.
    execute(
        database,
        "CREATE TABLE public.known (id int); INSERT INTO public.known VALUES (1);"
        " CREATE FUNCTION public.is_known(int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 IN (SELECT id FROM known)';"
        " CREATE TABLE public.used (id int CHECK (public.is_known(id))); INSERT INTO public.used VALUES (1)",
    )
    refused = backups.create()
    backups.verify(refused.name)
    with pytest.raises(Unrestorable, match='relation "known" does not exist'):
        backups.verify(refused.name, restore=True)
    assert [backup.state for backup in backups.list()] == ["restored", "unrestorable"]
    assert backups.find("latest").name == restorable.name

    backups.verify(refused.name)
    assert backups.find(refused.name).state == "unrestorable", "its files being whole makes it no better"
    strict = Backups(replace(backups.site, retention=Retention(days=1e-9, count=1)))
    strict.cleanup()
    assert [backup.name for backup in strict.list()] == [restorable.name]
    execute(database, "DROP TABLE public.used")
    newest = backups.create()
    backups.verify(newest.name)
    strict.cleanup()
    assert [backup.name for backup in strict.list()] == [restorable.name, newest.name], "it was not restored yet"


def test_a_connection_that_was_lost_says_nothing_of_the_backup(database: Database, tmp_path: Path) -> None:
    # It ends whoever restores it.
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


def test_programs_older_than_the_dump_are_refused(source: Database, copy: Path) -> None:
    old = backups_in(source.admin, copy.parent, programs=find_pg_tools(16).folder)
    with pytest.raises(Exception, match="BACKUP_PG_BIN") as caught:
        old.verify("latest")
    assert not isinstance(caught.value, BackupDamaged)
    assert [backup.state for backup in old.list()] == ["unverified"]


def test_a_manifest_of_a_newer_vsyncd_is_said(backups: Backups, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes()) | {"form": 2}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert backups.list()[0].problems == ("manifest.json: it was written by a newer vsyncd",)


def test_a_backup_of_migrations_that_are_not_known_is_refused(backups: Backups, source: Database) -> None:
    with pytest.raises(VersionMismatch, match=r"version \d+ of the migrations vsync, made by vsyncd 1\.2\.3"):
        elsewhere(backups, f"{source.admin} dbname=never_made", known={}).restore(backups.list()[0].name)
