"""Migration files, named as golang-migrate names them: `<set>/<version>_<name>.up.sql` and `.down.sql`."""

import hashlib
import itertools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vsyncd.migrate.errors import BadMigrationFiles

# Applied first: every other set may use its tables and functions.
CORE_SET = "core"
# The set of commands that work on a single set and are given none.
DEFAULT_SET = "vsync"
# A version is stored as PostgreSQL's bigint.
MAX_VERSION = 2**63 - 1

# Versions of up to six digits are consecutive, and a gap may be a lost file. Longer ones are timestamps.
_MAX_CONSECUTIVE = 999_999
_FILE_NAME = re.compile(r"(?P<version>[0-9]+)_(?P<name>.*)\.(?P<direction>up|down)\.sql")
# `001_initial_schema.sql` with `001_rollback.sql`: the direction follows from the name.
_PLAIN_FILE_NAME = re.compile(r"(?P<version>[0-9]+)_(?P<name>.+)\.sql")
_ROLLBACK = "rollback"
_SET_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One version of one set.

    `previous` is the preceding version, or 0. `checksum` is the up file's SHA-256 in hexadecimal, with `\\n` as line
    ending.
    """

    set_name: str
    version: int
    previous: int
    name: str
    up: Path
    down: Path | None
    checksum: str

    def __str__(self) -> str:
        return label_of(self.set_name, self.version, self.name)


class FileProblem(NamedTuple):
    """A problem of the files. `is_fatal`: they cannot be run. `is_warning`: it may be intentional."""

    text: str
    is_fatal: bool
    is_warning: bool = False


class MigrationSet(NamedTuple):
    """The migrations of one folder, sorted by version, and the problems of its files."""

    migrations: tuple[Migration, ...]
    problems: tuple[FileProblem, ...]


def label_of(set_name: str, version: int, name: str) -> str:
    """Returns the name of a migration in messages, independent of the padding in the file name."""
    return f"{set_name}/{version:06d}_{name}"


def default_root() -> Path:
    """Returns the folder of vsyncd's migrations: in the installed package, or in the source tree."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"


def is_set_name(name: str) -> bool:
    return _SET_NAME.fullmatch(name) is not None


def set_folders(root: Path | None = None, *, sets: Collection[str] | None = None) -> list[Path]:
    """Returns the folders of all sets below `root` (default: vsyncd's own), or of the named sets.

    They are in the order in which they are applied: core first, then by name. Raises BadMigrationFiles.
    """
    root = root or default_root()
    if not root.is_dir():
        raise BadMigrationFiles(f"the folder {root} does not exist")
    folders = [folder for folder in root.iterdir() if folder.is_dir() and is_set_name(folder.name)]
    folders.sort(key=lambda folder: (folder.name != CORE_SET, folder.name))
    if sets is None:
        return folders
    if missing := sorted(set(sets) - {folder.name for folder in folders}):
        names = ", ".join(folder.name for folder in folders) or "none"
        raise BadMigrationFiles(f"{root} contains no set {', '.join(missing)}; its sets are: {names}")
    return [folder for folder in folders if folder.name in sets]


def discover(root: Path | None = None, *, sets: Collection[str] | None = None) -> tuple[Migration, ...]:
    """Returns the migrations of every set or of the named sets, in the order in which they are applied.

    Accepts gaps and missing down files, which `validate` reports. Raises BadMigrationFiles.
    """
    found = [read_set(folder) for folder in set_folders(root, sets=sets)]
    if bad := [problem.text for each in found for problem in each.problems if problem.is_fatal]:
        raise BadMigrationFiles("; ".join(bad))
    return tuple(migration for each in found for migration in each.migrations)


def latest_versions(root: Path | None = None, *, sets: Collection[str] | None = None) -> dict[str, int]:
    """Returns the last version of every set or of the named sets. Raises BadMigrationFiles."""
    return {migration.set_name: migration.version for migration in discover(root, sets=sets)}


def read_sql(path: Path) -> str:
    """Returns the text of a file with `\\n` as line ending, without a byte order mark. Raises BadMigrationFiles."""
    return _read(path).removeprefix("\ufeff")


def checksum_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal, with `\\n` as line ending. Raises BadMigrationFiles."""
    return hashlib.sha256(_read(path).encode()).hexdigest()


def read_set(folder: Path) -> MigrationSet:
    """Reads the files of one set. Raises BadMigrationFiles for a file that is not UTF-8."""
    ups: dict[int, _File] = {}
    downs: dict[int, _File] = {}
    problems = []
    # Editors and file systems create files whose names start with a dot.
    for path in sorted(path for path in folder.glob("*.sql") if not path.name.startswith(".")):
        file = _parse(path)
        if isinstance(file, FileProblem):
            problems.append(file)
            continue
        files = ups if file.is_up else downs
        if (other := files.get(file.version)) is not None:
            text = f"{other.path.name} and {path.name} in {folder} have the same version: renumber one of them"
            problems.append(FileProblem(text, is_fatal=True))
        files[file.version] = file
    problems += _find_problems(folder, ups, downs)
    migrations = [
        Migration(
            set_name=folder.name,
            version=version,
            previous=previous,
            name=ups[version].name,
            up=ups[version].path,
            down=downs[version].path if version in downs else None,
            checksum=checksum_of(ups[version].path),
        )
        for previous, version in itertools.pairwise([0, *sorted(ups)])
    ]
    return MigrationSet(tuple(migrations), tuple(problems))


class _File(NamedTuple):
    path: Path
    version: int
    name: str
    is_up: bool


def _parse(path: Path) -> _File | FileProblem:
    match = _FILE_NAME.fullmatch(path.name)
    plain = _PLAIN_FILE_NAME.fullmatch(path.name)
    if match is None and plain is None:
        return FileProblem(f"{path} is not named <version>_<name>.up.sql or <version>_<name>.down.sql", is_fatal=True)
    if match is not None:
        version, name, is_up = int(match["version"]), match["name"], match["direction"] == "up"
    elif plain is not None:
        version, name, is_up = int(plain["version"]), plain["name"], plain["name"] != _ROLLBACK
    if version > MAX_VERSION:
        return FileProblem(f"{path} has a version above {MAX_VERSION}, the highest that can be stored", is_fatal=True)
    return _File(path, version, name, is_up)


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadMigrationFiles(f"{path} cannot be read as UTF-8 text") from error
    # libpq would send the statement only up to the NUL.
    if "\0" in text:
        raise BadMigrationFiles(f"{path} contains a NUL character: save it as UTF-8 text")
    return text


def _find_problems(folder: Path, ups: dict[int, _File], downs: dict[int, _File]) -> Iterator[FileProblem]:
    if 0 in ups:
        yield FileProblem(f"{ups[0].path} has the version 0, which is reserved for an empty set", is_fatal=True)
    for before, after in itertools.pairwise([0, *sorted(ups.keys() - {0})]):
        if before + 1 < after <= _MAX_CONSECUTIVE:
            gap = f"{before + 1:06d} is" if after == before + 2 else f"{before + 1:06d} to {after - 1:06d} are"
            text = f"{gap} missing in {folder}; the next file is {ups[after].path.name}"
            yield FileProblem(text, is_fatal=False)
    for version, file in sorted(downs.items()):
        if version not in ups:
            yield FileProblem(f"{file.path} has no up file", is_fatal=True)
    for version, file in sorted(ups.items()):
        if version not in downs:
            yield FileProblem(f"{file.path} has no down file: it cannot be reverted", is_fatal=False, is_warning=True)
