"""Who asks to stop is heard by every thread, and one that fails ends the others."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from vsyncd.backup.dumping import DumpOptions, _Dump, sha256_of
from vsyncd.backup.errors import Interrupted, StorageFailed
from vsyncd.backup.folder import FolderStore
from vsyncd.backup.manifest import (
    MANIFEST,
    SUMS,
    Collation,
    ContentSummary,
    FileEntry,
    Manifest,
    Origin,
    write_manifest,
    write_sums,
)
from vsyncd.backup.pg_tools import PgTools
from vsyncd.backup.progress import Progress, nobody_watches
from vsyncd.backup.store import Workspace
from vsyncd.backup.subprocesses import Stop
from vsyncd.backup.verification import check_files

NAME = "vsync-20261120T010203045Z"
FILES = 50


def a_manifest() -> Manifest:
    collation = Collation(encoding="UTF8", provider="libc", collate="C", ctype="C", locale=None, rules=None)
    origin = Origin(
        database="vsync", owner="vsync", server_version="18.1", server_major=18, collation=collation, roles=()
    )
    return Manifest(
        name=NAME,
        created_at=datetime(2026, 11, 20, 1, 2, 3, 45000, tzinfo=UTC),
        seconds=1,
        vsyncd_version="1.2.3",
        pg_dump_version="18.1",
        dump_format="directory",
        compression="none",
        origin=origin,
        census=ContentSummary(schema="vsync", tables={}, cid_sets=(), migrations={}),
        files=tuple(FileEntry(path=f"dump/{number}", size=1, sha256="0" * 64) for number in range(FILES)),
    )


class Watched(FolderStore):
    """Counts what is opened of the dump; at the first of it somebody stops, or reading fails."""

    def __init__(self, root: Path, stop: Stop | None) -> None:
        super().__init__(root)
        self.opened = 0
        self._stop = stop
        self._counting = threading.Lock()

    def read(self, name: str, path: str) -> Iterator[bytes]:
        if path in {MANIFEST, SUMS}:
            yield from super().read(name, path)
            return
        with self._counting:
            self.opened += 1
        if self._stop is None:
            raise StorageFailed("the store went")
        self._stop.ask()
        yield from super().read(name, path)


@pytest.mark.parametrize("fails", [True, False])
def test_files_that_wait_to_be_read_are_not_opened_any_more(tmp_path: Path, *, fails: bool) -> None:
    manifest = a_manifest()
    (tmp_path / NAME / "dump").mkdir(parents=True)
    (tmp_path / NAME / MANIFEST).write_bytes(write_manifest(manifest))
    (tmp_path / NAME / SUMS).write_bytes(write_sums(manifest.files, write_manifest(manifest)))
    for file in manifest.files:
        (tmp_path / NAME / file.path).write_bytes(b"1")
    stop = Stop()
    store = Watched(tmp_path, None if fails else stop)
    with pytest.raises(StorageFailed if fails else Interrupted):
        check_files(store, manifest, jobs=1, on_progress=nobody_watches, stop=stop)
    assert store.opened == 1


def test_checksums_end_in_the_middle_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(bytes(10 * 1024**2))
    stop, pieces = Stop(), 0

    def check() -> None:
        nonlocal pieces
        pieces += 1
        if pieces == 3:
            stop.ask()
        stop.check()

    with pytest.raises(Interrupted):
        sha256_of(path, check)
    assert pieces == 3
    assert len(sha256_of(path, Stop().check)) == 64


def test_what_ends_the_checksums_ends_them_in_every_thread(tmp_path: Path) -> None:
    """The second file takes minutes."""
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "1").write_bytes(b"1")
    with (tmp_path / "dump" / "2").open("wb") as file:
        file.truncate(64 * 1024**3)

    def fail(_progress: Progress) -> None:
        raise StorageFailed("nobody can be told")

    programs = PgTools(folder=tmp_path, version="18.1", major=18)
    dump = _Dump(Workspace(tmp_path, 0), programs, DumpOptions(jobs=2), fail, Stop())
    with pytest.raises(StorageFailed, match="nobody can be told"):
        dump.files()
