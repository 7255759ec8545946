"""Output files appear only when they are complete, also on full disks."""

import os
import resource
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from vsync.atomic_files import atomic_files

LARGEST = 100_000


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limits the files of this process to LARGEST bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), atomic_files([str(path)], gzipped=False) as (stream,):
        stream.write(bytes(1 // 0))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with atomic_files([str(path)], gzipped=False) as (stream,):
        stream.write(b"whole")
        assert path.read_text() == "before"
    assert path.read_text() == "whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_symbolic_links_and_devices_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic_files([str(tmp_path / "link")], gzipped=False) as (stream,):
        stream.write(b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"x"
    with atomic_files([os.devnull], gzipped=False) as (stream,):
        stream.write(b"x")
    assert Path(os.devnull).is_char_device()


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("sizes", [(LARGEST + 1, 1), (1, LARGEST + 1)])
def test_no_file_appears_if_one_of_several_cannot_be_written(tmp_path: Path, sizes: tuple[int, int]) -> None:
    for name in "ab":
        (tmp_path / name).write_text("before")
    names = [str(tmp_path / name) for name in "ab"]
    with pytest.raises(OSError, match="too large"), atomic_files(names) as streams:  # noqa: PT012 - it fails behind it
        for stream, size in zip(streams, sizes, strict=True):
            stream.write(bytes(size))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "before", "b": "before"}


def test_a_file_can_be_a_numbered_pipe(tmp_path: Path) -> None:
    """The shell passes such a name for `--out >(sort)`."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        with cat.stdin, atomic_files([f"/dev/fd/{cat.stdin.fileno()}"], gzipped=False) as (stream,):
            stream.write(b"x")
        assert cat.stdout.read() == b"x"
    assert not list(tmp_path.iterdir())
