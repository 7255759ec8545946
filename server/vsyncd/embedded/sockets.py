"""The folder of the server's Unix socket."""

import shutil
import sys
import tempfile
from pathlib import Path

from vsyncd.embedded.account import Account

_RUN = "run"
_REMEMBERED = "socket-folder"
_PREFIX = "vsyncd-"
# sockaddr_un.sun_path, without its final NUL: unix(7); 104 bytes on the BSDs and macOS.
_LONGEST = 107 if sys.platform == "linux" else 103
_SOCKET_NAME = "/.s.PGSQL.5432"


def make_socket_dir(*, data_dir: Path, account: Account, reuse: Path | None = None) -> Path:
    """Make a folder that only `account` can enter: `run` in the data folder, or a short temporary one where no socket
    fits. `reuse` is the folder of a server that is restarted: it is emptied, or made again if it has vanished."""
    if reuse is not None:
        shutil.rmtree(reuse, ignore_errors=True)
        reuse.mkdir(mode=0o700)
        account.own(reuse)
        return reuse
    remove_socket_dir(data_dir)
    run = data_dir / _RUN
    # libpq reads a comma in its host as the end of one of several.
    if len(f"{run}{_SOCKET_NAME}".encode()) <= _LONGEST and "," not in str(run):
        run.mkdir(mode=0o700)
    else:
        # Not tempfile.gettempdir(): TMPDIR may be a long path, or closed to the server's user.
        run = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
        (data_dir / _REMEMBERED).write_text(str(run))
    account.own(run)
    return run


def find_socket_dir(data_dir: Path) -> Path | None:
    """The folder of a socket that is there now, whoever made it. Raises OSError where one may not look."""
    remembered = data_dir / _REMEMBERED
    folder = Path(remembered.read_text()) if remembered.exists() else data_dir / _RUN
    return folder if Path(f"{folder}{_SOCKET_NAME}").is_socket() else None


def remove_socket_dir(data_dir: Path) -> None:
    """Remove what the last server used, also when it was a temporary folder of a vsyncd that was killed."""
    shutil.rmtree(data_dir / _RUN, ignore_errors=True)
    remembered = data_dir / _REMEMBERED
    if remembered.exists():
        folder = Path(remembered.read_text())
        if folder.parent == Path("/tmp") and folder.name.startswith(_PREFIX):  # noqa: S108 - where it was made
            shutil.rmtree(folder, ignore_errors=True)
        remembered.unlink()
