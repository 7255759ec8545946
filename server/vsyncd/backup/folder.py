"""Backups in a folder, one below it for each."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from vsyncd.backup.errors import StorageFailed
from vsyncd.backup.manifest import MANIFEST, is_name
from vsyncd.backup.store import Contents, OnBytes, Workspace

_UNFINISHED: Final = ".unfinished-"
_REMOVED: Final = ".removed-"
_LOCK: Final = ".lock"
_PIECE: Final = 1024**2
# What a file system says that has no locks.
_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class FolderStore:
    """See Store. A backup is put together under a hidden name and renamed when it is whole."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def contents(self) -> Contents:
        """See Store."""
        return {name: sizes for name, sizes in self._all().items() if MANIFEST in sizes}

    def incomplete(self) -> Sequence[str]:
        """See Store."""
        return [name for name, sizes in self._all().items() if sizes and MANIFEST not in sizes]

    @contextlib.contextmanager
    def workspace(self, name: str) -> Iterator[Workspace]:
        """See Store."""
        folder = self.root / f"{_UNFINISHED}{name}"
        with _storage(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock(folder)
        if lock is None:
            raise StorageFailed(f"{folder} is in use by another process")
        try:
            with _storage(self.root):
                folder.mkdir(mode=0o700)
            yield Workspace(folder, lock)
        finally:
            # Errors are for `tidy`: what went wrong before is what the caller wants to know.
            shutil.rmtree(folder, ignore_errors=True)
            _unlock(folder, lock)

    def keep(self, workspace: Workspace, name: str, on_bytes: OnBytes) -> None:
        """See Store. pg_dump has synced its own files."""
        with _storage(self.root):
            sync(workspace.folder)
            workspace.folder.rename(self.root / name)
            sync(self.root)
        on_bytes(0)

    def read(self, name: str, path: str) -> Iterator[bytes]:
        """See Store."""
        with _storage(self.root):
            try:
                file = (self.root / name / path).open("rb")
            except FileNotFoundError:
                file = None
            if file is not None:
                with file:
                    while piece := file.read(_PIECE):
                        yield piece
                return
        raise FileNotFoundError(path)

    def write(self, name: str, path: str, data: bytes) -> None:
        """See Store."""
        with _storage(self.root):
            new = self.root / name / f".{path}.new"
            write_file(new, data)
            new.replace(self.root / name / path)
            sync(self.root / name)

    @contextlib.contextmanager
    def local(self, name: str, paths: Mapping[str, int], on_bytes: OnBytes) -> Iterator[Path]:
        """See Store. It is here already."""
        on_bytes(sum(paths.values()))
        yield self.root / name

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[Sequence[int]]:
        """See Store. By a shared lock on its manifest, which goes with it. Where the file system knows no locks it is
        restored all the same."""
        with _storage(self.root):
            try:
                descriptor = _hold(self.root / name / MANIFEST, os.O_RDONLY, fcntl.LOCK_SH)
            except FileNotFoundError:
                descriptor = None
        if descriptor is None:
            raise FileNotFoundError(name)
        try:
            yield (descriptor,)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> bool:
        """See Store."""
        with _storage(self.root), contextlib.suppress(FileNotFoundError):  # another instance was faster
            descriptor = _hold(self.root / name / MANIFEST, os.O_RDWR, fcntl.LOCK_EX)
            if descriptor is None:
                return False
            try:
                gone = self.root / f"{_REMOVED}{name}"
                (self.root / name).rename(gone)
                shutil.rmtree(gone)
            finally:
                os.close(descriptor)
        return True

    def tidy(self) -> list[str]:
        """See Store. What a process still works on, a pg_dump that outlived its vsyncd too, stays."""
        done = []
        with _storage(self.root):
            found = self.root.glob(f"{_UNFINISHED}*") if self.root.exists() else []
            for folder in sorted({path.with_name(path.name.removesuffix(_LOCK)) for path in found}):
                if (lock := _lock(folder)) is None:
                    continue
                try:
                    if folder.exists():  # if not, another process was faster, or killed before it made it
                        shutil.rmtree(folder)
                        done.append(folder.name.removeprefix(_UNFINISHED))
                finally:
                    _unlock(folder, lock)
            for folder in self.root.glob(f"{_REMOVED}*"):
                shutil.rmtree(folder, ignore_errors=True)  # another instance may be at it
        return done

    def _all(self) -> Contents:
        with _storage(self.root):
            if not self.root.exists():
                return {}
            return {path.name: _sizes(path) for path in sorted(self.root.iterdir()) if is_name(path.name)}


def write_file(path: Path, data: bytes) -> None:
    """Write a new file, 0600, to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sizes(folder: Path) -> dict[str, int]:
    try:
        return {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }
    except FileNotFoundError:
        return {}  # it is just being removed


def _lock(folder: Path) -> int | None:
    """The descriptor of the folder's lock, which stands beside it; None when another process has it."""
    path = folder.with_name(folder.name + _LOCK)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it may have removed it just then: a lock on what has no name any more keeps nobody away.
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _hold(path: Path, flags: int, kind: int) -> int | None:
    """The descriptor of a file with a lock of this kind; None when somebody else has one that does not go with it.
    Raises FileNotFoundError, also when it was removed meanwhile."""
    descriptor = os.open(path, flags)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if kind == fcntl.LOCK_EX or error.errno not in _NO_LOCKS:
                raise
        path.stat()
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _unlock(folder: Path, descriptor: int) -> None:
    folder.with_name(folder.name + _LOCK).unlink(missing_ok=True)
    os.close(descriptor)


@contextlib.contextmanager
def _storage(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"the folder {root} cannot be used: {error.strerror or type(error).__name__}") from error
