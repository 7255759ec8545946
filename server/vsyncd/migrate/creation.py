"""New migration files, under the next free number."""

from __future__ import annotations

import re
from pathlib import Path

from vsyncd.migrate.errors import CannotCreate
from vsyncd.migrate.files import BASE_SET, default_root, is_set_name, read_set

_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
_UP = """\
-- What this is for. "vsync" (in double quotes) is the schema; qualify every name with it.
-- docs/migrations.md says how to change a table that is in use.
"""
_DOWN = "-- Takes back what the up file did, and nothing else.\n"


def create_migration(name: str, *, set_name: str = BASE_SET, root: Path | None = None) -> tuple[Path, Path]:
    """Write an up and a down file for `name` (spaces and dashes become `_`); their paths. A new set gets its folder.

    Without `root` they go into the source tree; an installed package has none. Raises CannotCreate, and
    BadMigrationFiles for files there that cannot be read.
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
    up, down = (folder / f"{version:06d}_{stem}.{direction}.sql" for direction in ("up", "down"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in ((up, _UP), (down, _DOWN)):
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise CannotCreate(f"{folder} cannot be written to: {error.strerror}") from error
    return up, down
