"""Deleting a data folder, but never of a running server, and never other files."""

import subprocess
import sys
from pathlib import Path

import pytest
from vsyncd.embedded import DataDirInUse, DataDirUnreachable, EmbeddedValkey, remove_data_dir

from tests.harness.owners import Owner, read, running, until, write

ROOT = Path(__file__).parents[3]


def test_the_folder_is_deleted_after_the_server_has_stopped_and_can_be_created_again(folder: Path) -> None:
    data_dir = folder / ("long" * 25)
    with running(data_dir) as server:
        write(server.conninfo)
        valkey = EmbeddedValkey(data_dir / "valkey")
        valkey.start_now()
        with pytest.raises(DataDirInUse, match="in use by another vsyncd"):
            remove_data_dir(data_dir)
        assert read(server.conninfo) == 42
        valkey.stop_now()
    assert remove_data_dir(data_dir)
    assert not data_dir.exists()
    assert not remove_data_dir(data_dir)
    with running(data_dir) as server:
        write(server.conninfo)


def test_an_orphaned_server_is_stopped_first(folder: Path) -> None:
    with Owner(folder / "data") as owner:
        owner.answer()
        orphan = owner.postmaster
        owner.guard.kill()
        owner.kill()
    assert remove_data_dir(folder / "data")
    until(lambda: not orphan.is_running())


def test_other_files_are_kept(folder: Path) -> None:
    with pytest.raises(DataDirUnreachable, match="not a data folder"):
        remove_data_dir(folder)
    with running(folder):
        (folder / "notes").write_text("precious")
    assert remove_data_dir(folder)
    assert [path.name for path in folder.iterdir()] == ["notes"]


def test_the_command_reports_what_it_deleted(folder: Path) -> None:
    data_dir = folder / "data"
    with running(data_dir):
        refused = reset(data_dir)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: the data folder {data_dir} is in use")
    assert reset(data_dir).stdout == f"deleted {data_dir}\n"
    assert reset(data_dir).stdout == f"nothing to delete: {data_dir} does not exist\n"


def reset(data_dir: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "scripts.reset_data", "--data-dir", str(data_dir)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
