"""Runs pg_dump and pg_restore: their words kept, and ended when somebody asks."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from vsyncd.backup.errors import Interrupted

_TICK_SECONDS: Final = 0.25
_END_SECONDS: Final = 10
_MOST_ERRORS: Final = 3
# Without the details and statements, which may quote rows. Parallel workers write the parts of their lines in between
# each other's: "pg_dump:pg_dump: error: ...", " error: ...".
_TELLING: Final = re.compile(r"^(?:pg_\w+: ?)* ?(?:error|fatal|hint): (.*)")

OnLine = Callable[[str], None]


class Stop:
    """Asks work to end, from another thread: its programs are killed, and it raises Interrupted."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        """End it."""
        self._asked.set()

    def check(self) -> None:
        """Raises Interrupted when it was asked for."""
        if self._asked.is_set():
            raise Interrupted("it was stopped")


class ProgramFailed(Exception):  # noqa: N818 - says what happened; the callers have leaves of BackupError for it
    """A program ended with another code than 0. The message is what it said of that, in one line."""


def run_program(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    stop: Stop,
    on_line: OnLine,
    on_tick: Callable[[], None],
    holding: Sequence[int] = (),
    output: IO[bytes] | int = subprocess.DEVNULL,
) -> None:
    """Run it to its end. `on_line` gets each line it says, `on_tick` is called some times a second; what either
    raises ends the program. It inherits the descriptors of `holding`: a lock is held for as long as it lives.

    A program whose vsyncd was killed ends when it next says something. Raises ProgramFailed, Interrupted, OSError.
    """
    errors: list[str] = []
    with subprocess.Popen(  # noqa: S603 - PostgreSQL's own programs, never a shell line made of input
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        pass_fds=tuple(holding),
        umask=0o077,  # what pg_dump writes is for its owner only
        start_new_session=True,  # Ctrl-C in our terminal is for us to pass on
    ) as process:
        reader = threading.Thread(target=_read, args=(process, errors, on_line), name="backup program", daemon=True)
        reader.start()
        try:
            on_tick()
            while not _ended(process, reader):
                stop.check()
                on_tick()
        finally:
            _end(process)
            reader.join()
    if process.returncode:
        raise ProgramFailed(
            "; ".join(dict.fromkeys(errors)) or f"{Path(command[0]).name} ended with {process.returncode}"
        )


def _read(process: subprocess.Popen[str], errors: list[str], on_line: OnLine) -> None:
    """Its first errors are kept: other workers go on telling of their progress, and what follows is of less worth."""
    if process.stderr is not None:
        for line in map(str.rstrip, process.stderr):
            found = _TELLING.match(line)
            if found and len(errors) < _MOST_ERRORS:
                errors.append(found[1])
            on_line(line)


def _ended(process: subprocess.Popen[str], reader: threading.Thread) -> bool:
    """Whether it has. It falls silent when it ends, which is heard sooner than the end itself."""
    reader.join(_TICK_SECONDS)
    if reader.is_alive():
        return process.poll() is not None
    try:
        process.wait(_TICK_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[str]) -> None:
    """By SIGTERM, so that it cancels what runs on the server, then by SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
