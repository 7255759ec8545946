"""Where backups are kept: the interface, and backups in a folder. bucket.py has the S3-compatible store."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from vsyncd.backup.errors import StorageFailed
from vsyncd.backup.manifest import MANIFEST, is_name
from vsyncd.backup.tasks import OnBytes

# The sizes of each backup's files: by the backup's name and the file's path.
Contents = Mapping[str, Mapping[str, int]]

_UNFINISHED: Final = ".unfinished-"
_REMOVED: Final = ".removed-"
_LOCK: Final = ".lock"
_PIECE_BYTES: Final = 1024**2
# The errors of file systems without locks.
_LOCKS_UNSUPPORTED: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class Workspace(NamedTuple):
    """A local folder in which a backup is assembled, and the descriptor of its lock.

    A process that inherits the descriptor prevents the folder's removal.
    """

    folder: Path
    lock: int


class BackupStore(Protocol):
    """Keeps backups, each with a few files. Every method raises StorageFailed."""

    def contents(self) -> Contents:
        """Returns all files. A backup without manifest.json is incomplete."""

    def workspace(self, name: str) -> contextlib.AbstractContextManager[Workspace]:
        """Creates a workspace, and removes what is left of it at the end."""

    def keep(self, workspace: Workspace, name: str, on_bytes: OnBytes) -> None:
        """Store the workspace's files durably. The backup becomes complete in one step."""

    def read(self, name: str, path: str) -> Iterator[bytes]:
        """Yields a file in pieces. Raises FileNotFoundError."""

    def write(self, name: str, path: str, data: bytes) -> None:
        """Add or replace a small file."""

    def local(self, name: str, paths: Mapping[str, int], on_bytes: OnBytes) -> contextlib.AbstractContextManager[Path]:
        """Provides a local folder with these files while the context lasts."""

    def held(self, name: str) -> contextlib.AbstractContextManager[Sequence[int]]:
        """Prevents the removal of a backup by any process while the context lasts.

        A program that inherits the returned descriptors prevents it too. Raises FileNotFoundError.
        """

    def remove(self, name: str) -> bool:
        """Remove a backup, its manifest first. Returns False if it is held."""

    def tidy(self) -> list[str]:
        """Remove the remains of killed processes. Returns the names of the unfinished backups."""


class FolderStore:
    """A Store in a folder. A backup is assembled under a hidden name and renamed when it is complete."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def contents(self) -> Contents:
        found = {}
        with _storage_errors(self.root):
            for path in sorted(self.root.iterdir()) if self.root.exists() else ():
                with contextlib.suppress(FileNotFoundError):  # it is being removed
                    if is_name(path.name):
                        found[path.name] = file_sizes(path)
        return found

    @contextlib.contextmanager
    def workspace(self, name: str) -> Iterator[Workspace]:
        folder = self.root / f"{_UNFINISHED}{name}"
        with _storage_errors(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock(folder)
        if lock is None:
            raise StorageFailed(f"{folder} is in use by another process")
        try:
            with _storage_errors(self.root):
                folder.mkdir(mode=0o700)
            yield Workspace(folder, lock)
        finally:
            # `tidy` removes the rest; an error here must not hide the caller's.
            shutil.rmtree(folder, ignore_errors=True)
            _unlock(folder, lock)

    def keep(self, workspace: Workspace, name: str, on_bytes: OnBytes) -> None:
        with _storage_errors(self.root):
            sync(workspace.folder)
            workspace.folder.rename(self.root / name)
            sync(self.root)
        on_bytes(0)

    def read(self, name: str, path: str) -> Iterator[bytes]:
        with _storage_errors(self.root):
            yield from read_pieces(self.root / name / path)

    def write(self, name: str, path: str, data: bytes) -> None:
        with _storage_errors(self.root):
            new = self.root / name / f".{path}.new"
            write_file(new, data)
            new.replace(self.root / name / path)
            sync(self.root / name)

    @contextlib.contextmanager
    def local(self, name: str, paths: Mapping[str, int], on_bytes: OnBytes) -> Iterator[Path]:
        on_bytes(sum(paths.values()))
        yield self.root / name

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[Sequence[int]]:
        """Locks the manifest, shared. On a file system without locks the backup is not protected."""
        with _storage_errors(self.root):
            descriptor = _hold(self.root / name / MANIFEST, os.O_RDONLY, fcntl.LOCK_SH)
        if descriptor is None:  # it is being removed
            raise FileNotFoundError(name)
        try:
            yield (descriptor,)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> bool:
        with _storage_errors(self.root), contextlib.suppress(FileNotFoundError):  # another instance removed it
            descriptor = _hold(self.root / name / MANIFEST, os.O_RDWR, fcntl.LOCK_EX)
            if descriptor is None:
                return False
            try:
                removed = self.root / f"{_REMOVED}{name}"
                (self.root / name).rename(removed)
                shutil.rmtree(removed)
            finally:
                os.close(descriptor)
        return True

    def tidy(self) -> list[str]:
        """Leaves the workspaces of live processes, including a pg_dump whose vsyncd was killed."""
        unfinished = []
        with _storage_errors(self.root):
            found = self.root.glob(f"{_UNFINISHED}*") if self.root.exists() else []
            for folder in sorted({path.with_name(path.name.removesuffix(_LOCK)) for path in found}):
                if (lock := _lock(folder)) is None:
                    continue
                try:
                    if folder.exists():  # otherwise only the lock file was left
                        shutil.rmtree(folder)
                        unfinished.append(folder.name.removeprefix(_UNFINISHED))
                finally:
                    _unlock(folder, lock)
            for folder in self.root.glob(f"{_REMOVED}*"):
                shutil.rmtree(folder, ignore_errors=True)  # another instance may be removing it
        return unfinished


def file_sizes(folder: Path) -> dict[str, int]:
    """Returns the sizes of the files below a folder by relative path. Raises FileNotFoundError if one is removed."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def read_pieces(path: Path) -> Iterator[bytes]:
    """Yields the content of a file in pieces of 1 MiB."""
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def write_file(path: Path, data: bytes) -> None:
    """Write a file with mode 0600 and sync it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int | None:
    """Lock the file beside the folder. Returns its descriptor, or None if another process holds the lock."""
    while True:
        with contextlib.suppress(FileNotFoundError):  # the previous holder has removed the file
            return _hold(folder.with_name(folder.name + _LOCK), os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)


def _hold(path: Path, flags: int, kind: int) -> int | None:
    """Open and lock a file. Returns its descriptor, or None if another process holds a conflicting lock.

    Raises FileNotFoundError, also if the file was removed meanwhile: a lock on it would exclude nobody.
    """
    descriptor = os.open(path, flags, 0o600)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if kind == fcntl.LOCK_EX or error.errno not in _LOCKS_UNSUPPORTED:
                raise
        if path.stat().st_ino != os.fstat(descriptor).st_ino:
            raise FileNotFoundError(path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _unlock(folder: Path, descriptor: int) -> None:
    folder.with_name(folder.name + _LOCK).unlink(missing_ok=True)
    os.close(descriptor)


@contextlib.contextmanager
def _storage_errors(root: Path) -> Iterator[None]:
    """Raises StorageFailed for an OSError. A missing file remains a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageFailed(f"the folder {root} cannot be used: {error.strerror or type(error).__name__}") from error
