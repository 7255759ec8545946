"""The data folder: where it is by default, made, and held by one process at a time.

<data-dir>/lock            held while vsyncd runs; the holder's process id
<data-dir>/postgres/       the cluster, and postgres.new-* while it is made
<data-dir>/postgres.log    the server's log since its last start; .1 is the one before
<data-dir>/run/            its socket (or socket-folder: where that is, when this path is too long for one)
<data-dir>/valkey/         Valkey's folder: its lock, log and socket; it keeps nothing
<data-dir>/binaries/       a copy of the programs, when the server's user cannot reach the wheel's
"""

import fcntl
import hashlib
import os
import sys
from pathlib import Path

import platformdirs

from vsyncd.embedded.account import Account
from vsyncd.embedded.errors import DataDirInUse, DataDirUnreachable

LOCK = "lock"


def default_data_dir(checkout: Path | None = None) -> Path:
    """The platform's folder for application data, or, for a source checkout, `.data` in it.

    Root's PostgreSQL runs as another user, which may not be able to enter a checkout. Root's default is therefore
    /var/lib/vsyncd on Linux, and for a checkout a folder named after it in there.
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
    # Checkouts of the same name in different places must not share a folder.
    return platform_dir / f"{checkout.name}-{hashlib.sha256(os.fsencode(checkout)).hexdigest()[:8]}"


def make_data_dir(path: Path) -> Path:
    """Create the folder where it is missing and give its real path. Raises DataDirUnreachable.

    What root makes is open to pass through, since another user runs the server: all that is inside is closed.
    """
    mode = 0o755 if os.geteuid() == 0 else 0o700
    path = path.expanduser().absolute()
    try:
        for folder in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
            folder.mkdir(mode=mode, exist_ok=True)
            folder.chmod(mode)  # whatever the umask is
        return path.resolve(strict=True)
    except OSError as error:
        raise DataDirUnreachable(
            f"the data folder {path} cannot be made: {error.strerror} ({error.filename})"
        ) from error


def open_to(account: Account, data_dir: Path) -> None:
    """See to it that the server's user can enter the data folder. Raises DataDirUnreachable.

    Only the data folder itself is ever opened (to pass through), and only when nothing else lives there: never a
    folder above it.
    """
    closed = account.closed_folder(data_dir)
    if closed == data_dir and set(os.listdir(data_dir)) <= {LOCK}:  # noqa: PTH208 - names are what is compared
        data_dir.chmod(data_dir.stat().st_mode | 0o011)
        closed = account.closed_folder(data_dir)
    if closed is not None:
        raise DataDirUnreachable(
            f"the data folder {data_dir} cannot be used: {closed} is closed to the user {account.name}, who has to run "
            f"PostgreSQL (it refuses to run as root); choose another data folder, or open this one: chmod o+x {closed}"
        )


class FolderLock:
    """One vsyncd a data folder: an flock(2), which ends with the process however it ends."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Hold the folder, or raise DataDirInUse at once (DataDirUnreachable when the lock cannot be written)."""
        try:
            # Not inherited by children (PEP 446), so that an orphaned server does not hold it.
            descriptor = os.open(self._data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise DataDirUnreachable(
                f"the data folder {self._data_dir} cannot be written: {error.strerror} ({error.filename})"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise DataDirInUse(
                f"the data folder {self._data_dir} is in use by another vsyncd (process {holder}): "
                "stop it, or choose another data folder"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go. The file stays: removing it would let two processes hold two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
