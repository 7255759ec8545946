"""Backups in an S3-compatible store, with a real server over HTTP."""

import os
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from vsyncd.backup.bucket import Bucket, BucketStore
from vsyncd.backup.errors import BackupDamaged, Interrupted, StorageFailed
from vsyncd.backup.manager import Backups, CleanupResult
from vsyncd.backup.manifest import MANIFEST
from vsyncd.backup.records import Retention
from vsyncd.backup.tasks import Progress, Task
from vsyncd.config import load_settings
from vsyncd.jobs.backups import backups_of

from tests.harness.backups import backups_in, content, elsewhere
from tests.harness.clusters import Database
from tests.harness.s3_server import KEY, SECRET, S3Server, s3_server

NAME = "vsync-20261120T010203045Z"
MIB = 1024**2


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        make_bucket(server)
        yield server


def make_bucket(server: S3Server) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/backups", method="PUT")):  # noqa: S310 - the test's own server
        pass


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def store(server: S3Server, tmp_path: Path, prefix: str) -> BucketStore:
    return server.store(tmp_path / "staging", prefix)


@pytest.fixture
def backups(filled: Database, store: BucketStore, tmp_path: Path) -> Backups:
    return backups_in(filled.admin, tmp_path, store=store)


def test_a_backup_is_created_listed_verified_restored_and_removed(
    backups: Backups, filled: Database, empty_database: Database, tmp_path: Path
) -> None:
    made = backups.create()
    assert list((tmp_path / "staging").iterdir()) == [], "the workspace was not removed"
    assert [(backup.name, backup.state) for backup in backups.list()] == [(made.name, "unverified")]
    backups.verify("latest", restore=True)
    backups.verify("latest")
    assert [backup.state for backup in backups.list()] == ["restored"], (
        "reading the files does not change the result of the restore"
    )
    elsewhere(backups, empty_database.admin).restore(made.name)
    assert content(empty_database.admin) == content(filled.admin)
    assert list((tmp_path / "staging").iterdir()) == []
    backups.config.store.remove(made.name)
    assert backups.list() == []


@pytest.mark.soak
def test_cleanup_keeps_a_backup_that_is_marked_as_in_use(
    backups: Backups, empty_database: Database, server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Backups(replace(backups.config, retention=Retention(days=1e-9, count=1)))
    old, _ = backups.create().name, backups.create().name
    cleaned: dict[str, CleanupResult] = {}

    def clean_up(progress: Progress) -> None:
        if progress.step not in cleaned:
            cleaned[progress.step] = strict.cleanup()

    elsewhere(backups, empty_database.admin).restore(old, Task(clean_up))
    assert [(step, each.removed, each.in_use) for step, each in cleaned.items()] == [
        (step, [], [old]) for step in ("verify", "fetch", "restore", "compare")
    ]
    # The mark of a killed process.
    obstore.put(server.raw(prefix), f"in-use/{old}/0123", b"in use")
    result = strict.cleanup()
    assert (result.removed, result.unfinished, result.in_use) == ([], [], [old])
    monkeypatch.setattr("vsyncd.backup.bucket._MARK_LIFETIME", timedelta(0))
    assert strict.cleanup().removed == [old]
    assert not [key for key in server.keys(prefix) if "in-use" in key or old in key]


def test_a_removed_backup_cannot_be_held(store: BucketStore, server: S3Server, prefix: str) -> None:
    with pytest.raises(FileNotFoundError), store.held(NAME):
        pass
    assert server.keys(prefix) == []


def test_the_settings_configure_the_store(server: S3Server, tmp_path: Path) -> None:
    settings = load_settings(
        backup_dir=str(tmp_path),
        backup_s3_url="s3://backups/by-settings",
        backup_s3_endpoint=server.url,
        backup_s3_access_key_id=KEY,
        backup_s3_secret_access_key=SECRET,
    )
    obstore.put(server.raw("by-settings"), f"{NAME}/{MANIFEST}", b"{}")
    (listed,) = backups_of(settings).list()
    assert (listed.name, listed.state) == (NAME, "damaged")
    assert SECRET not in str(settings.masked())


def test_a_flipped_bit_is_found(backups: Backups, server: S3Server, prefix: str) -> None:
    made = backups.create()
    key = f"{made.name}/dump/toc.dat"
    data = bytearray(obstore.get(server.raw(prefix), key).bytes().to_bytes())
    data[100] ^= 1
    obstore.put(server.raw(prefix), key, bytes(data))
    with pytest.raises(BackupDamaged) as caught:
        backups.verify(made.name)
    assert caught.value.problems == ("dump/toc.dat: its content has changed (SHA-256)",)
    obstore.delete(server.raw(prefix), key)
    assert backups.list()[0].problems == ("dump/toc.dat: missing",)


def test_a_large_file_is_transferred_in_parts(store: BucketStore) -> None:
    data = os.urandom(20 * MIB + 1)
    with store.workspace(NAME) as workspace:
        (workspace.folder / "dump").write_bytes(data)
        (workspace.folder / MANIFEST).write_bytes(b"{}")
        sent: list[int] = []
        store.keep(workspace, NAME, sent.append)
    assert sum(sent) == len(data) + 2
    pieces = list(store.read(NAME, "dump"))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= 8 * MIB
    with store.local(NAME, {"dump": len(data)}, lambda _count: None) as folder:
        assert (folder / "dump").read_bytes() == data
        assert (folder / "dump").stat().st_mode & 0o777 == 0o600
        store.tidy()
        assert (folder / "dump").exists(), "the folder is in use"
    with pytest.raises(FileNotFoundError):
        next(iter(store.read(NAME, "other")))


def test_an_interrupted_upload_is_no_backup(store: BucketStore, server: S3Server, prefix: str) -> None:
    def stop(_count: int) -> None:
        raise Interrupted("stopped on request")

    for size in (10, 20 * MIB):
        with store.workspace(NAME) as workspace:
            (workspace.folder / "dump").write_bytes(bytes(size))
            (workspace.folder / MANIFEST).write_bytes(b"{}")
            with pytest.raises(Interrupted):
                store.keep(workspace, NAME, stop)
        assert MANIFEST not in store.contents().get(NAME, {})
    obstore.put(server.raw(prefix), "vsync-20200101T000000000Z/dump", b"an old upload")
    obstore.put(server.raw(prefix), f"{NAME}/dump", b"perhaps a running upload")
    obstore.put(server.raw(prefix), "other/file", b"an unrelated object")
    assert "vsync-20200101T000000000Z" in store.tidy()
    assert "other/file" in server.keys(prefix)


def test_a_store_that_fails_during_the_upload_keeps_nothing(filled: Database, tmp_path: Path) -> None:
    with s3_server() as server:
        make_bucket(server)
        store = server.store(tmp_path)
        kept = 0

        def kill_server(_count: int) -> None:
            nonlocal kept
            kept += 1
            if kept == 3:
                server.kill()

        with store.workspace(NAME) as workspace:
            for number in range(5):
                (workspace.folder / f"file{number}").write_bytes(b"data")
            (workspace.folder / MANIFEST).write_bytes(b"{}")
            with pytest.raises(StorageFailed, match="the S3 store cannot be used: "):
                store.keep(workspace, NAME, kill_server)
        with pytest.raises(StorageFailed) as caught:
            backups_in(filled.admin, tmp_path, store=store).list()
        assert SECRET not in str(caught.value)


def test_wrong_credentials_and_a_missing_bucket_are_reported(server: S3Server, tmp_path: Path) -> None:
    missing = Bucket(url="s3://nowhere", endpoint=server.url, access_key_id="a", secret_access_key="b")
    with pytest.raises(StorageFailed, match=r"the bucket does not exist|NoSuchBucket"):
        BucketStore(missing, staging=tmp_path).contents()
    with s3_server(INITIAL_NO_AUTH_ACTION_COUNT="0") as strict:
        with pytest.raises(StorageFailed, match=r"InvalidAccessKeyId|PermissionDenied|Unauthenticated") as caught:
            strict.store(tmp_path).contents()
        assert SECRET not in str(caught.value)
