"""Migrations as files: `<set>/NNNNNN_name.up.sql` and `.down.sql`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vsyncd.migrate.errors import BadMigrationFiles

# The set that all others may build on: applied first, taken back last.
BASE_SET = "vsync"

_FILE_NAME = re.compile(r"(?P<version>\d{6})_(?P<name>[a-z0-9_]+)\.(?P<direction>up|down)\.sql")
_SET_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One version of one set. `checksum` is the SHA-256 of the up file, in hexadecimal, whatever its line ends."""

    set_name: str
    version: int
    name: str
    up: Path
    down: Path | None
    checksum: str

    def __str__(self) -> str:
        return f"{self.set_name}/{self.version:06d}_{self.name}"


def default_root() -> Path:
    """Where the migrations are that come with vsyncd: inside the package when installed, else the source tree's."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"


def discover(root: Path | None = None, *, set_name: str | None = None) -> tuple[Migration, ...]:
    """The migrations below `root` (default: vsyncd's own), of every set or of one, in the order they are applied.

    Raises BadMigrationFiles.
    """
    root = root or default_root()
    if not root.is_dir():
        raise BadMigrationFiles(f"there is no folder {root}")
    folders = [folder for folder in root.iterdir() if folder.is_dir() and _SET_NAME.fullmatch(folder.name)]
    if set_name is not None:
        folders = [folder for folder in folders if folder.name == set_name]
        if not folders:
            raise BadMigrationFiles(f"there is no set {set_name} in {root}")
    folders.sort(key=lambda folder: (folder.name != BASE_SET, folder.name))
    return tuple(migration for folder in folders for migration in _read_set(folder))


def latest_versions(root: Path | None = None) -> dict[str, int]:
    """The last version of each set. Raises BadMigrationFiles."""
    return {migration.set_name: migration.version for migration in discover(root)}


def read_sql(path: Path) -> str:
    """The text of a file, lines ending with `\\n`. Raises BadMigrationFiles."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadMigrationFiles(f"{path} cannot be read as UTF-8 text") from error


def _read_set(folder: Path) -> list[Migration]:
    ups: dict[int, Path] = {}
    downs: dict[int, Path] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise BadMigrationFiles(f"{path} is not named NNNNNN_name.up.sql or NNNNNN_name.down.sql")
        files = ups if match["direction"] == "up" else downs
        version = int(match["version"])
        if version in files:
            raise BadMigrationFiles(f"{files[version].name} and {path.name} in {folder} have the same version")
        files[version] = path
    _check(folder, ups.keys(), downs)
    return [_migration(folder.name, version, path, downs.get(version)) for version, path in sorted(ups.items())]


def _check(folder: Path, versions: Iterable[int], downs: dict[int, Path]) -> None:
    for expected, version in enumerate(sorted(versions), start=1):
        if version != expected:
            raise BadMigrationFiles(f"{folder} has a version {version:06d} and no {expected:06d}")
    for version in downs.keys() - set(versions):
        raise BadMigrationFiles(f"{downs[version]} has no up file")


def _migration(set_name: str, version: int, up: Path, down: Path | None) -> Migration:
    return Migration(
        set_name=set_name,
        version=version,
        name=up.name.removesuffix(".up.sql").partition("_")[2],
        up=up,
        down=down,
        checksum=hashlib.sha256(read_sql(up).encode()).hexdigest(),
    )
