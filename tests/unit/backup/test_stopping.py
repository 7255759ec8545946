"""A stop request or the failure of one thread ends all threads."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from vsyncd.backup.dumping import _checksums
from vsyncd.backup.errors import Interrupted, StorageFailed
from vsyncd.backup.manifest import (
    MANIFEST,
    SUMS,
    Collation,
    ContentSummary,
    FileEntry,
    Manifest,
    Origin,
    file_entry,
    write_manifest,
    write_sums,
)
from vsyncd.backup.store import FolderStore, read_pieces
from vsyncd.backup.tasks import Progress, Task
from vsyncd.backup.verification import check_files

NAME = "vsync-20261120T010203045Z"
FILES = 50


def a_manifest() -> Manifest:
    collation = Collation(encoding="UTF8", provider="libc", collate="C", ctype="C", locale=None, rules=None)
    origin = Origin(
        database="vsync",
        system_identifier="1",
        owner="vsync",
        server_version="18.1",
        server_major=18,
        collation=collation,
        roles=(),
    )
    return Manifest(
        name=NAME,
        created_at=datetime(2026, 11, 20, 1, 2, 3, 45000, tzinfo=UTC),
        duration_seconds=1,
        vsyncd_version="1.2.3",
        pg_dump_version="18.1",
        dump_format="directory",
        compression="none",
        origin=origin,
        content=ContentSummary(schema="vsync", tables={}, cid_sets=(), migrations={}),
        files=tuple(FileEntry(path=f"dump/{number}", size=1, sha256="0" * 64) for number in range(FILES)),
    )


class FailingStore(FolderStore):
    """Counts the opened files of the dump. The first read requests a stop, or fails if there is no `task`."""

    def __init__(self, root: Path, task: Task | None) -> None:
        super().__init__(root)
        self.opened = 0
        self._task = task
        self._counting = threading.Lock()

    def read(self, name: str, path: str) -> Iterator[bytes]:
        if path in {MANIFEST, SUMS}:
            yield from super().read(name, path)
            return
        with self._counting:
            self.opened += 1
        if self._task is None:
            raise StorageFailed("connection lost")
        self._task.stop()
        yield from super().read(name, path)


@pytest.mark.parametrize("fails", [True, False])
def test_no_file_is_opened_after_a_failure_or_a_stop_request(tmp_path: Path, *, fails: bool) -> None:
    manifest = a_manifest()
    (tmp_path / NAME / "dump").mkdir(parents=True)
    (tmp_path / NAME / MANIFEST).write_bytes(write_manifest(manifest))
    (tmp_path / NAME / SUMS).write_bytes(write_sums(manifest.files, write_manifest(manifest)))
    for file in manifest.files:
        (tmp_path / NAME / file.path).write_bytes(b"1")
    task = Task()
    store = FailingStore(tmp_path, None if fails else task)
    with pytest.raises(StorageFailed if fails else Interrupted):
        check_files(store, manifest, known=(), jobs=1, task=task)
    assert store.opened == 1


def test_a_stop_request_ends_a_checksum_in_the_middle_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(bytes(10 * 1024**2))
    task, pieces = Task(), 0

    def on_bytes(_count: int) -> None:
        nonlocal pieces
        pieces += 1
        if pieces == 3:
            task.stop()
        task.check()

    with pytest.raises(Interrupted):
        file_entry("dump", read_pieces(path), on_bytes)
    assert pieces == 3
    entry = file_entry("dump", read_pieces(path), lambda _count: None)
    assert (entry.size, len(entry.sha256)) == (10 * 1024**2, 64)


def test_a_failing_progress_callback_ends_the_checksums_of_all_threads(tmp_path: Path) -> None:
    """The second file would take minutes."""
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "1").write_bytes(b"1")
    with (tmp_path / "dump" / "2").open("wb") as file:
        file.truncate(64 * 1024**3)

    def fail(_progress: Progress) -> None:
        raise StorageFailed("progress failed")

    with pytest.raises(StorageFailed, match="progress failed"):
        _checksums(tmp_path, jobs=2, task=Task(fail))
