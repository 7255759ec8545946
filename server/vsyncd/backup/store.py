"""The interface of the places that keep backups: a folder (folder.py) or an S3-compatible store (bucket.py)."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from vsyncd.backup.tasks import OnBytes

# The sizes of each backup's files: by the backup's name and the file's path.
Contents = Mapping[str, Mapping[str, int]]


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
