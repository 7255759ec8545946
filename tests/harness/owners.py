"""Embedded servers of this process, or of a child process that can be killed or run as another user."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import psutil
import psycopg
from vsyncd.embedded import EmbeddedPostgres

# Changes the user after the imports: Python itself may be in a folder that the user cannot enter.
_PROGRAM = """
import json, os, pwd, sys
from pathlib import Path
from vsyncd.embedded import EmbeddedPostgres, EmbeddedError
if len(sys.argv) > 2:
    user = pwd.getpwnam(sys.argv[2])
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
server = EmbeddedPostgres(Path(sys.argv[1]))
try:
    print(json.dumps({"conninfo": server.start_now()}), flush=True)
except EmbeddedError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
sys.stdin.read()
server.stop_now()
"""


class Owner:
    """A child process that runs a server in `data_dir` until the context ends."""

    def __init__(self, data_dir: Path, *, user: str | None = None) -> None:
        arguments = [str(data_dir)] if user is None else [str(data_dir), user]
        # Without coverage's variables: another user cannot write its files.
        environment = dict(os.environ) if user is None else {"PATH": os.environ["PATH"]}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            cwd="/",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> dict[str, str]:
        """Returns the result of the start: conninfo, or error and message."""
        assert self.process.stdout is not None
        answer: dict[str, str] = json.loads(self.process.stdout.readline())
        return answer

    @property
    def postmaster(self) -> psutil.Process:
        """The server's main process."""
        return next(child for child in psutil.Process(self.process.pid).children() if child.name() == "postgres")

    @property
    def guard(self) -> psutil.Process:
        """The process that stops the server after the owner was killed."""
        return next(child for child in psutil.Process(self.process.pid).children() if child.name() != "postgres")

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.communicate(timeout=60)


@contextlib.contextmanager
def running(
    data_dir: Path, *, version: int = 18, settings: Mapping[str, str] = MappingProxyType({"fsync": "off"})
) -> Iterator[EmbeddedPostgres]:
    """A server of this process while the context lasts; without fsync by default."""
    server = EmbeddedPostgres(data_dir, version=version, settings=settings)
    server.start_now()
    try:
        yield server
    finally:
        server.stop_now()


def postmaster_pid(data_dir: Path) -> int:
    """Returns the process id in the pid file of a running server."""
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Poll until the condition is true, if there is no event to wait for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {seconds:g} s"
        time.sleep(0.005)


def write(conninfo: str) -> None:
    """Commit a value that `read` returns."""
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")


def read(conninfo: str) -> int:
    """Returns the value that `write` committed: 42."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT answer FROM kept").fetchone()
    assert row is not None
    return int(row[0])


def show(conninfo: str, setting: str) -> str:
    """Returns a setting of the server."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT current_setting(%s)", [setting]).fetchone()
    assert row is not None
    return str(row[0])


def modes(path: Path) -> dict[Path, tuple[int, int, int]]:
    """Returns mode and owners of a folder, its entries and its parents."""
    found = (path, *path.parents, *path.iterdir())
    return {each: (each.stat().st_mode, each.stat().st_uid, each.stat().st_gid) for each in found}
