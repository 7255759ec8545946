"""Migrations as files: `<set>/NNNNNN_name.up.sql` and `.down.sql`."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vsyncd.migrate.errors import BadMigrationFiles

# The set that all others may build on: applied first, taken back last.
BASE_SET = "vsync"

_FILE_NAME = re.compile(r"(?P<version>\d{6})_(?P<name>[a-z0-9_]+)\.(?P<direction>up|down)\.sql")
_SET_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One version of one set. `previous` is the version before it, 0 for none: numbers may be left out. `checksum` is
    the SHA-256 of the up file, in hexadecimal, whatever its line ends."""

    set_name: str
    version: int
    previous: int
    name: str
    up: Path
    down: Path | None
    checksum: str

    @property
    def stem(self) -> str:
        """What both of its files begin with."""
        return f"{self.version:06d}_{self.name}"

    def __str__(self) -> str:
        return f"{self.set_name}/{self.stem}"


class Flaw(NamedTuple):
    """What is wrong with files. `stops`: they cannot be run as they are."""

    text: str
    stops: bool


class MigrationSet(NamedTuple):
    """The files of one folder, in the order of their versions, and what is wrong with them."""

    migrations: tuple[Migration, ...]
    flaws: tuple[Flaw, ...]


def default_root() -> Path:
    """Where the migrations are that come with vsyncd: inside the package when installed, else the source tree's."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"


def is_set_name(name: str) -> bool:
    """Whether a folder of this name is a set."""
    return _SET_NAME.fullmatch(name) is not None


def set_folders(root: Path | None = None, *, set_name: str | None = None) -> list[Path]:
    """The folders of the sets below `root` (default: vsyncd's own), or of one, in the order they are applied.

    Raises BadMigrationFiles.
    """
    root = root or default_root()
    if not root.is_dir():
        raise BadMigrationFiles(f"there is no folder {root}")
    there = [folder for folder in root.iterdir() if folder.is_dir() and is_set_name(folder.name)]
    there.sort(key=lambda folder: (folder.name != BASE_SET, folder.name))
    if set_name is None:
        return there
    folders = [folder for folder in there if folder.name == set_name]
    if not folders:
        names = ", ".join(folder.name for folder in there) or "none"
        raise BadMigrationFiles(f"there is no set {set_name} in {root}; there is {names}")
    return folders


def discover(root: Path | None = None, *, set_name: str | None = None) -> tuple[Migration, ...]:
    """The migrations of every set or of one, in the order they are applied.

    A number that is left out, or a missing down file, is for `validate` to complain of: it stands in nobody's way
    here. Raises BadMigrationFiles.
    """
    sets = [read_set(folder) for folder in set_folders(root, set_name=set_name)]
    if bad := [flaw.text for found in sets for flaw in found.flaws if flaw.stops]:
        raise BadMigrationFiles("; ".join(bad))
    return tuple(migration for found in sets for migration in found.migrations)


def latest_versions(root: Path | None = None) -> dict[str, int]:
    """The last version of each set. Raises BadMigrationFiles."""
    return {migration.set_name: migration.version for migration in discover(root)}


def read_sql(path: Path) -> str:
    """The text of a file, lines ending with `\\n`, without a byte order mark. Raises BadMigrationFiles."""
    return _read(path).removeprefix("\ufeff")


def checksum_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, lines ending with `\\n`. Raises BadMigrationFiles."""
    return hashlib.sha256(_read(path).encode()).hexdigest()


def read_set(folder: Path) -> MigrationSet:
    """The files of one set, and all that is wrong with them. Raises BadMigrationFiles for one that cannot be read."""
    ups: dict[int, Path] = {}
    downs: dict[int, Path] = {}
    flaws = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            flaws.append(Flaw(f"{path} is not named NNNNNN_name.up.sql or NNNNNN_name.down.sql", stops=True))
            continue
        files = ups if match["direction"] == "up" else downs
        version = int(match["version"])
        if version in files:
            text = f"{files[version].name} and {path.name} in {folder} have the same version: give one another"
            flaws.append(Flaw(text, stops=True))
        files[version] = path
    flaws += _flaws(folder, ups, downs)
    migrations = [
        _migration(folder.name, previous, version, ups[version], downs.get(version))
        for previous, version in itertools.pairwise([0, *sorted(ups)])
    ]
    return MigrationSet(tuple(migrations), tuple(flaws))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadMigrationFiles(f"{path} cannot be read as UTF-8 text") from error


def _flaws(folder: Path, ups: dict[int, Path], downs: dict[int, Path]) -> Iterator[Flaw]:
    if 0 in ups:
        yield Flaw(f"{ups[0]} has the version 0, which means that nothing is applied", stops=True)
    for before, after in itertools.pairwise([0, *sorted(ups.keys() - {0})]):
        if after > before + 1:
            left_out = f"{before + 1:06d} is" if after == before + 2 else f"{before + 1:06d} to {after - 1:06d} are"
            yield Flaw(f"{left_out} left out in {folder}, which goes on with {ups[after].name}", stops=False)
    for version, path in sorted(downs.items()):
        if version not in ups:
            yield Flaw(f"{path} has no up file", stops=True)
    for version, path in sorted(ups.items()):
        if version not in downs:
            yield Flaw(f"{path} has no down file: it could not be taken back", stops=False)


def _migration(set_name: str, previous: int, version: int, up: Path, down: Path | None) -> Migration:
    return Migration(
        set_name=set_name,
        version=version,
        previous=previous,
        name=up.name.removesuffix(".up.sql").partition("_")[2],
        up=up,
        down=down,
        checksum=checksum_of(up),
    )
