"""Creates new migration files, numbered or with a timestamp."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from vsyncd.migrate.errors import CannotCreate
from vsyncd.migrate.files import DEFAULT_SET, MAX_VERSION, default_root, is_set_name, read_set

_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
_UP = """\
-- What this is for. "vsync" (in double quotes) is the schema; qualify every name with it.
-- docs/migrations.md says how to change a table that is in use.
"""
_DOWN = "-- Takes back what the up file did, and nothing else.\n"


def create_migration(
    name: str, *, set_name: str = DEFAULT_SET, root: Path | None = None, timestamp: bool = False
) -> tuple[Path, Path]:
    """Write an up and a down file for `name` (spaces and dashes become `_`) and return their paths.

    The version is the next number of the set, padded to six digits. With `timestamp` it is the present second in UTC,
    or the next number if the set is already beyond it. A new set gets its folder. Without `root` the files belong to
    the source tree; an installed package has none. Raises CannotCreate, and BadMigrationFiles for existing files that
    cannot be read.
    """
    stem = re.sub(r"[\s-]+", "_", name.strip().lower())
    if _NAME.fullmatch(stem) is None:
        raise CannotCreate("a name takes letters, digits and _, the first a letter, at most 61")
    if not is_set_name(set_name):
        raise CannotCreate("a set's name takes lower case letters, digits and _, the first a letter")
    root = root or default_root()
    if root == Path(__file__).resolve().parents[1] / "migrations":
        raise CannotCreate("vsyncd is installed, its files are not to be changed: name a folder in DB_MIGRATE_PATH")
    folder = root / set_name
    there = read_set(folder).migrations if folder.is_dir() else ()
    version = max((migration.version for migration in there), default=0) + 1
    if timestamp:
        version = max(version, int(f"{datetime.now(UTC):%Y%m%d%H%M%S}"))
    if version > MAX_VERSION:
        raise CannotCreate(f"the set {set_name} has no version left above {version - 1}")
    up, down = (folder / f"{version:06d}_{stem}.{direction}.sql" for direction in ("up", "down"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in ((up, _UP), (down, _DOWN)):
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise CannotCreate(f"{folder} cannot be written to: {error.strerror}") from error
    return up, down
