"""The user that runs a server's processes.

PostgreSQL refuses to run as root, and Valkey needs no privileges: for root both run as an existing unprivileged user.
Other users run the servers as themselves.
"""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vsyncd.embedded.errors import DataDirUnreachable

_UNPRIVILEGED_USERS = ("postgres", "nobody")
# Prints the first folder that cannot be entered. Run as the user, because modes do not show ACLs.
_FIRST_INACCESSIBLE = 'for folder; do [ -x "$folder" ] || { printf %s "$folder"; exit 1; }; done'


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user to run programs as. `uid` and `gid` are None for the current user."""

    name: str
    uid: int | None = None
    gid: int | None = None

    def run(
        self, command: Sequence[str | Path], *, cwd: Path, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end as this user; `stdout` has both outputs. Raises OSError, TimeoutExpired."""
        return subprocess.run(  # noqa: S603 - known programs, without a shell
            command,
            cwd=cwd,
            env=_environment(),
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def spawn(
        self, command: Sequence[str | Path], *, cwd: Path, stdin: int, output: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        """Start a program as this user, in its own session, which Ctrl-C in the terminal does not reach."""
        return subprocess.Popen(  # noqa: S603 - known programs, without a shell
            command,
            cwd=cwd,
            env=_environment(),
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def chown(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def first_inaccessible(self, path: Path) -> Path | None:
        """Returns the first of `path` and its parents, outermost first, that this user cannot enter."""
        folders = [str(folder) for folder in (*reversed(path.parents), path)]
        answer = self.run(["/bin/sh", "-c", _FIRST_INACCESSIBLE, "sh", *folders], cwd=Path("/"))
        # The last line: libraries may print between fork and exec.
        found = answer.stdout.rpartition("\n")[2]
        return Path(found) if answer.returncode and found in folders else None


def account_for(folder: Path) -> Account:
    """Returns the user to run the server as: the owner of its folder, if that exists. Raises DataDirUnreachable.

    Root chooses the first user of `postgres` and `nobody` that exists, unless another user owns the folder.
    """
    current = os.geteuid()
    owner = folder.stat().st_uid if folder.exists() else None
    if current != 0:
        if owner not in {None, current}:
            raise DataDirUnreachable(
                f"{folder} belongs to the user {_name(owner)}: start vsyncd as that user, or as root"
            )
        return Account(name=_name(current))
    if owner:
        return Account(name=_name(owner), uid=owner, gid=folder.stat().st_gid)
    for name in _UNPRIVILEGED_USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=user.pw_uid, gid=user.pw_gid)
    raise DataDirUnreachable(f"the servers do not run as root, and no user of {', '.join(_UNPRIVILEGED_USERS)} exists")


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return str(uid)


def _environment() -> dict[str, str]:
    """Returns a minimal environment: no secrets, none of libpq's PG* variables, messages in English."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH") if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "TZ": "UTC"}
