"""Runs pg_dump and pg_restore, with credentials that appear on no command line and in no environment variable."""

import contextlib
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from vsyncd.backup.errors import DatabaseFailed, PgToolsUnsuitable
from vsyncd.backup.tasks import TICK_S, Stop

_TERMINATION_TIMEOUT_S: Final = 10
_MAX_ERRORS: Final = 3
# Excludes the lines of DETAIL and STATEMENT, which may quote rows. Parallel workers interleave their lines:
# "pg_dump:pg_dump: error: ...", " error: ...".
_ERROR_LINE: Final = re.compile(r"^(?:pg_\w+: ?)* ?(?:error|fatal|hint): (.*)")

# The environment variables that are passed on. Not vsyncd's own settings, which contain secrets.
_INHERITED: Final = ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR", "KRB5CCNAME", "KRB5_CONFIG")
# libpq sends the last three after the connection string's options, which they would override.
_EXCLUDED: Final = ("PGPASSWORD", "PGCLIENTENCODING", "PGDATESTYLE", "PGTZ")
_SERVICE: Final = "vsyncd"
# isspace() in the C locale.
_SPACE: Final = " \t\n\v\f\r"
DBNAME: Final = f"--dbname=service={_SERVICE}"
# Where a process finds inherited files. On Linux each open() starts at the beginning, which every connection needs;
# other systems share one position.
_DESCRIPTORS: Final = Path("/proc/self/fd")


class ProgramFailed(Exception):  # noqa: N818 - callers raise a BackupError from it
    """A program exited with a code other than 0. The message is its first errors in one line."""


class Credentials(NamedTuple):
    """The environment of a program that connects as `service=vsyncd`, and the descriptors that it must inherit."""

    environment: Mapping[str, str]
    descriptors: Sequence[int]


@contextlib.contextmanager
def credentials(conninfo: str, options: str | None = None) -> Iterator[Credentials]:
    """Provide a service file with the connection parameters, and a PGPASSFILE with the password, while it lasts.

    `options` are the PGOPTIONS: a line of a service file is limited to 1,000 characters. On Linux the files have no
    name and vanish with the last process that has them open, also after kill -9; elsewhere they are 0600 in a temporary
    folder. Raises DatabaseFailed.
    """
    require_expressible(conninfo)
    parameters = _parameters(conninfo)
    password = parameters.pop("password", None)
    excluded = {*_EXCLUDED, *_explicitly_empty(conninfo)}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or (name.startswith("PG") and name not in excluded)
    }
    if options is not None:
        environment["PGOPTIONS"] = options
    files = {
        "PGSERVICEFILE": "".join([f"[{_SERVICE}]\n", *(f"{name}={value}\n" for name, value in parameters.items())])
    }
    if password is not None:
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        files["PGPASSFILE"] = f"*:*:*:*:{escaped}\n"
    with contextlib.ExitStack() as stack:
        paths, descriptors = _in_memory(files, stack) if _DESCRIPTORS.is_dir() else _in_folder(files, stack)
        yield Credentials(environment | {"LC_ALL": "C"} | paths, descriptors)


def require_expressible(conninfo: str) -> None:
    """Raises DatabaseFailed for a value that a service file cannot contain.

    libpq ends a value at the line's end, and strips white space before it (parseServiceFile of fe-connect.c).
    """
    for name, value in _parameters(conninfo).items():
        if name != "password" and ("\n" in value or value != value.rstrip(_SPACE)):
            raise DatabaseFailed(
                f"{name} contains a line break or trailing white space, which pg_dump and pg_restore cannot be given"
            )


def run_program(
    command: Sequence[str | Path],
    *,
    credentials: Credentials,
    stop: Stop,
    on_line: Callable[[str], None] = lambda _line: None,
    on_tick: Callable[[], None] = lambda: None,
    descriptors: Sequence[int] = (),
    output: IO[bytes] | int = subprocess.DEVNULL,
) -> None:
    """Run a program to its end.

    `on_line` is called with each line of its standard error, `on_tick` a few times per second; an exception of either
    terminates the program. It inherits `descriptors`, and with them the locks on these files. If this process is
    killed, the program ends when it next writes to standard error.

    Raises ProgramFailed, PgToolsUnsuitable, Interrupted.
    """
    errors: list[str] = []
    try:
        process = subprocess.Popen(  # noqa: S603 - PostgreSQL's own programs, without a shell
            command,
            env=dict(credentials.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            pass_fds=(*credentials.descriptors, *descriptors),
            umask=0o077,  # only the owner may read a dump
            start_new_session=True,  # vsyncd itself handles Ctrl-C in the terminal
        )
    except OSError as error:
        raise PgToolsUnsuitable(f"{command[0]} cannot be run: {error.strerror}") from error
    with process:
        reader = threading.Thread(target=_read, args=(process, errors, on_line), name="backup program", daemon=True)
        reader.start()
        try:
            on_tick()
            while not _has_ended(process, reader):
                stop.check()
                on_tick()
        finally:
            _terminate(process)
            reader.join()
    if process.returncode:
        reason = "; ".join(dict.fromkeys(errors)) or f"exit code {process.returncode}"
        raise ProgramFailed(f"{Path(command[0]).name}: {reason}")


def _read(process: subprocess.Popen[str], errors: list[str], on_line: Callable[[str], None]) -> None:
    """Collect the first errors. Later ones are mostly consequences of these."""
    if process.stderr is not None:
        for line in map(str.rstrip, process.stderr):
            found = _ERROR_LINE.match(line)
            if found and len(errors) < _MAX_ERRORS:
                errors.append(found[1])
            on_line(line)


def _has_ended(process: subprocess.Popen[str], reader: threading.Thread) -> bool:
    """Wait for a tick. Joining the reader returns as soon as the program closes its standard error."""
    reader.join(TICK_S)
    if reader.is_alive():
        return process.poll() is not None
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TICK_S)
    return process.returncode is not None


def _terminate(process: subprocess.Popen[str]) -> None:
    """Send SIGTERM, on which the program cancels its statements, then SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_TERMINATION_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _explicitly_empty(conninfo: str) -> set[str]:
    """Returns the environment variables of the parameters that the connection string sets to an empty value."""
    return {
        option.envvar.decode()
        for option in pq.Conninfo.parse(conninfo.encode())
        if option.val == b"" and option.envvar is not None
    }


def _parameters(conninfo: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value not in {None, ""}}


def _in_memory(files: Mapping[str, str], stack: contextlib.ExitStack) -> tuple[dict[str, str], list[int]]:
    paths, descriptors = {}, []
    for name, text in files.items():
        descriptor = os.memfd_create(name)
        stack.callback(os.close, descriptor)
        os.fchmod(descriptor, 0o600)  # libpq ignores a password file that others can read
        os.write(descriptor, text.encode())
        descriptors.append(descriptor)
        paths[name] = str(_DESCRIPTORS / str(descriptor))
    return paths, descriptors


def _in_folder(files: Mapping[str, str], stack: contextlib.ExitStack) -> tuple[dict[str, str], list[int]]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vsyncd-")))  # created with mode 0700
    for name, text in files.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(text)
    return {name: str(folder / name) for name in files}, []
