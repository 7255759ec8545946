"""Where backups are kept: a folder (folder.py), or an S3-compatible store (bucket.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

# Each kept backup by its name, and the sizes of its files by their paths.
Contents = Mapping[str, Mapping[str, int]]
OnBytes = Callable[[int], None]


class Workspace(NamedTuple):
    """A folder on this machine in which a backup is put together, and the descriptor of its lock: whoever inherits it
    keeps others from clearing it away."""

    folder: Path
    lock: int


class Store(Protocol):
    """Keeps backups, each a few files under its name. All of it raises StorageFailed."""

    def contents(self) -> Contents:
        """What is kept. What is not whole yet, or not whole any more, is not."""
        ...

    def incomplete(self) -> Sequence[str]:
        """The names of those that have no manifest: not whole yet, or not any more."""
        ...

    def workspace(self, name: str) -> contextlib.AbstractContextManager[Workspace]:
        """A new workspace; what is left of it at the end goes."""
        ...

    def keep(self, workspace: Workspace, name: str, on_bytes: OnBytes) -> None:
        """Keep what stands in the workspace, from one moment to the next. It is on the disk, or in the store, then."""
        ...

    def read(self, name: str, path: str) -> Iterator[bytes]:
        """A file in pieces. Raises FileNotFoundError when it is not there."""
        ...

    def write(self, name: str, path: str, data: bytes) -> None:
        """Put a small file beside the others, or in the place of one."""
        ...

    def local(self, name: str, paths: Mapping[str, int], on_bytes: OnBytes) -> contextlib.AbstractContextManager[Path]:
        """A folder on this machine that has these files of it, for as long as the context lasts."""
        ...

    def held(self, name: str) -> contextlib.AbstractContextManager[Sequence[int]]:
        """Keeps it from being removed, by this process and others, for as long as the context lasts, or a program lives
        that inherited these descriptors. Raises FileNotFoundError when it is gone."""
        ...

    def remove(self, name: str) -> bool:
        """Remove it: at once as a backup, then its files. False: somebody holds it, and it stays."""
        ...

    def tidy(self) -> list[str]:
        """Clear away what killed processes left behind; the names of that."""
        ...
