"""Deleting a data folder."""

import shutil
from pathlib import Path
from typing import Final

from vsyncd.embedded.cluster import CLUSTER, stop_leftovers
from vsyncd.embedded.errors import DataDirUnreachable
from vsyncd.embedded.folder import LOCK, FolderLock
from vsyncd.embedded.sockets import remove_socket_dir

# What vsyncd makes in a data folder (see folder.py), the lock last: until then no server can start over it.
_OURS: Final = (CLUSTER, f"{CLUSTER}.new-*", "postgres.log*", "valkey", "binaries")


def remove_data_dir(data_dir: Path) -> bool:
    """Delete what vsyncd made in this folder, and the folder if nothing else is in it; False if it does not exist.

    Raises DataDirInUse while a vsyncd runs over it, and DataDirUnreachable if the folder is not a data folder or cannot
    be deleted.
    """
    path = data_dir.expanduser().absolute()
    if not path.exists():
        return False
    if not (path / LOCK).is_file():
        raise DataDirUnreachable(f"{path} is not a data folder of vsyncd: nothing was deleted")
    lock = FolderLock(path)
    lock.acquire()
    try:
        _remove(path)
    except OSError as error:
        raise DataDirUnreachable(f"{path} cannot be deleted: {error.strerror} ({error.filename})") from error
    finally:
        lock.release()
    return True


def _remove(path: Path) -> None:
    stop_leftovers(path / CLUSTER)
    remove_socket_dir(path)
    remove_socket_dir(path / "valkey")
    for entry in (entry for pattern in _OURS for entry in path.glob(pattern)):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (path / LOCK).unlink()
    if not any(path.iterdir()):
        path.rmdir()
