"""Whom the server's processes run as.

PostgreSQL refuses to run as root. Under root its processes therefore run as an unprivileged user that exists already;
nothing is added to the machine. An ordinary user's server runs as that user.
"""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vsyncd.embedded.errors import DataDirUnreachable

_UNPRIVILEGED = ("postgres", "nobody")
# Prints the first folder that cannot be entered. Asked of the system as that user: modes alone do not tell of ACLs.
_FIRST_CLOSED = 'for folder; do [ -x "$folder" ] || { printf %s "$folder"; exit 1; }; done'


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user to run programs as; `uid` and `gid` are None when that is who we are already."""

    name: str
    uid: int | None = None
    gid: int | None = None

    def run(
        self, command: Sequence[str | Path], *, cwd: Path, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end as this user, both its outputs in `stdout`. Raises OSError, TimeoutExpired."""
        return subprocess.run(  # noqa: S603 - our own programs, never a shell line made of input
            command,
            cwd=cwd,
            env=_environment(),
            user=self.uid,
            group=self.gid,
            extra_groups=self._extra_groups(),
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
        """Start a program as this user, in a session of its own: Ctrl-C in our terminal is not for it."""
        return subprocess.Popen(  # noqa: S603 - our own programs, never a shell line made of input
            command,
            cwd=cwd,
            env=_environment(),
            user=self.uid,
            group=self.gid,
            extra_groups=self._extra_groups(),
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def own(self, path: Path) -> None:
        """Make this user the owner of what we just created."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def closed_folder(self, path: Path) -> Path | None:
        """The outermost folder on the way into `path` that this user cannot enter."""
        way = [str(folder) for folder in (*reversed(path.parents), path)]
        answer = self.run(["/bin/sh", "-c", _FIRST_CLOSED, "sh", *way], cwd=Path("/"))
        # The last line: what a library of ours says between fork and exec stands before it.
        closed = answer.stdout.rpartition("\n")[2]
        return Path(closed) if answer.returncode and closed in way else None

    def _extra_groups(self) -> list[int] | None:
        return None if self.uid is None else []


def account_for(cluster: Path) -> Account:
    """Who runs the server of this cluster folder: its owner when it exists. Raises DataDirUnreachable.

    Under root, a new cluster gets the first of `postgres` and `nobody` that this machine has.
    """
    me = os.geteuid()
    owner = cluster.stat().st_uid if cluster.exists() else None
    if me != 0:
        if owner not in {None, me}:
            raise DataDirUnreachable(
                f"{cluster} belongs to the user {_name(owner)}: start vsyncd as that user, or as root"
            )
        return Account(name=_name(me))
    if owner:
        return Account(name=_name(owner), uid=owner, gid=cluster.stat().st_gid)
    for name in _UNPRIVILEGED:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=user.pw_uid, gid=user.pw_gid)
    raise DataDirUnreachable(
        f"PostgreSQL does not run as root, and there is none of the users {', '.join(_UNPRIVILEGED)}"
    )


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return str(uid)


def _environment() -> dict[str, str]:
    """What the server's programs see: none of our secrets, none of libpq's PG* variables, messages in English."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH") if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "TZ": "UTC"}
