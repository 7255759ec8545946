"""FolderStore with concurrent processes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vsyncd.backup.store import FolderStore

WORKERS = 4


def unfinished(root: Path, names: list[str]) -> None:
    for name in names:
        folder = root / f".unfinished-{name}"
        folder.mkdir()
        for number in range(4):
            (folder / str(number)).write_text("left by a killed process")


def test_concurrent_cleanups_succeed_and_report_each_unfinished_backup_once(tmp_path: Path) -> None:
    names = [f"vsync-20260101T0000000{number:02d}Z" for number in range(12)]
    together = threading.Barrier(WORKERS)

    def tidy() -> list[str]:
        together.wait()
        return FolderStore(tmp_path).tidy()

    with ThreadPoolExecutor(WORKERS) as threads:
        for _ in range(50):
            unfinished(tmp_path, names)
            results = [threads.submit(tidy) for _ in range(WORKERS)]
            assert sorted(name for each in results for name in each.result()) == names
            assert list(tmp_path.iterdir()) == []


def test_an_abandoned_lock_file_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-vsync-20260101T000000000Z.lock").write_text("")
    store = FolderStore(tmp_path)
    with store.workspace("vsync-20260101T000000001Z") as workspace:
        assert store.tidy() == []
        assert workspace.folder.exists()
        assert len(list(tmp_path.iterdir())) == 2, "the workspace and its lock"
    assert list(tmp_path.iterdir()) == []
