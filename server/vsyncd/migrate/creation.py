"""Creates new migration files, numbered or with a timestamp."""

import re
from datetime import UTC, datetime
from pathlib import Path

from vsyncd.migrate.errors import CannotCreate
from vsyncd.migrate.files import DEFAULT_SET, MAX_VERSION, default_root, is_set_name, read_set
from vsyncd.migrate.scaffold import TableScaffold

_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
_UP = """\
-- Describe the purpose here. Qualify every name with "vsync", which is replaced by the schema.
-- docs/migrations.md describes how to change a table in use.
"""
_DOWN = "-- Revert exactly what the up file does.\n"


def create_migration(
    name: str,
    *,
    set_name: str = DEFAULT_SET,
    root: Path | None = None,
    timestamp: bool = False,
    scaffold: TableScaffold | None = None,
) -> tuple[Path, Path]:
    """Write an up and a down file for `name` (spaces and dashes become `_`). Returns their paths.

    The version is the next number of the set, padded to six digits; with `timestamp`, the current second in UTC unless
    the set's versions are higher. The folder of a new set is created. Without `root` the files are created in the
    source tree, which an installed package does not have. `scaffold` is a table that the files create and drop. Raises
    CannotCreate, BadMigrationFiles.
    """
    stem = re.sub(r"[\s-]+", "_", name.strip().lower())
    if _NAME.fullmatch(stem) is None:
        raise CannotCreate("a name consists of a letter and up to 60 letters, digits and _")
    if not is_set_name(set_name):
        raise CannotCreate("a set's name consists of a lower case letter and lower case letters, digits and _")
    root = root or default_root()
    if root == Path(__file__).resolve().parents[1] / "migrations":
        raise CannotCreate("migrations cannot be added to an installed vsyncd: set DB_MIGRATE_PATH to a folder")
    folder = root / set_name
    existing = read_set(folder).migrations if folder.is_dir() else ()
    version = max((migration.version for migration in existing), default=0) + 1
    if timestamp:
        version = max(version, int(f"{datetime.now(UTC):%Y%m%d%H%M%S}"))
    if version > MAX_VERSION:
        raise CannotCreate(f"the set {set_name} has no free version above {version - 1}")
    texts = (_UP, _DOWN)
    if scaffold is not None:
        if _NAME.fullmatch(scaffold.table) is None:
            raise CannotCreate("a table's name takes letters, digits and _, the first a letter, at most 61")
        up_text = scaffold.up(set_name=set_name, version=version, description=name, today=datetime.now(UTC).date())
        texts = (up_text, scaffold.down(set_name=set_name))
    up, down = (folder / f"{version:06d}_{stem}.{direction}.sql" for direction in ("up", "down"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip((up, down), texts, strict=True):
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise CannotCreate(f"{folder} cannot be written to: {error.strerror}") from error
    return up, down
