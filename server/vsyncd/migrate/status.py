"""Compares the files with a database, and looks for what is wrong in either."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from vsyncd.migrate.connections import connected
from vsyncd.migrate.dirty_state import can_go_on, describe
from vsyncd.migrate.errors import BadMigrationFiles, FileMissing
from vsyncd.migrate.files import Migration, label_of, read_set, set_folders
from vsyncd.migrate.invalid_objects import find_invalid_objects
from vsyncd.migrate.plan import changed, late
from vsyncd.migrate.runner import MigrationTarget
from vsyncd.migrate.script import Direction, Script, read_script
from vsyncd.migrate.store import Applied, Dirty, Store


class State(Enum):
    """Of one version."""

    APPLIED = "applied"
    PENDING = "pending"
    DIRTY = "dirty"
    CHANGED = "changed"
    MISSING = "missing"
    """Applied, and without a file: the database is newer than this vsyncd, or a file was lost."""
    LATE = "late"
    """Not applied, while a later version is."""


class MigrationStatus(NamedTuple):
    """One version: its file and its row in the record, if they exist, and how far a dirty one came."""

    set_name: str
    version: int
    name: str
    state: State
    migration: Migration | None
    applied: Applied | None
    dirty: Dirty | None


def fetch_status(target: MigrationTarget) -> tuple[MigrationStatus, ...]:
    """Every version that there is, in files or in the database, by set and number.

    Raises BadMigrationFiles and DatabaseRefused.
    """
    return compare(target.files(), *_read(target))


class Findings(NamedTuple):
    """What `validate` found, a line each. Warnings are about what may be meant to be so."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def find_problems(target: MigrationTarget, *, with_database: bool = True) -> Findings:
    """Find what is wrong with the files: numbers left out or used twice, missing down files, files that cannot run;
    and, against the database, files that are changed, missing or late, dirty sets, and invalid objects.

    Raises BadMigrationFiles if there are no files to read, ForeignRecord and DatabaseRefused.
    """
    sets = [read_set(folder) for folder in set_folders(target.root, sets=target.sets)]
    flaws = [flaw for found in sets for flaw in found.flaws]
    migrations = [migration for found in sets for migration in found.migrations]
    problems = [flaw.text for flaw in flaws if not flaw.is_warning]
    warnings = tuple(flaw.text for flaw in flaws if flaw.is_warning)
    problems += [text for each in migrations for text in _unreadable(each, target.schema)]
    if with_database:
        statuses = compare(migrations, *_read(target))
        problems += [text for each in statuses for text in _complaint(each, target.schema)]
        problems += find_invalid_objects(target.conninfo)
    return Findings(tuple(problems), warnings)


def compare(
    migrations: Sequence[Migration], applied: Sequence[Applied], dirty: Sequence[Dirty]
) -> tuple[MigrationStatus, ...]:
    """The status of every version, from what was read."""
    files = {(each.set_name, each.version): each for each in migrations}
    rows = {(row.set_name, row.version): row for row in applied}
    half = {(row.set_name, row.version): row for row in dirty}
    last: dict[str, int] = {}
    for set_name, version in rows:
        last[set_name] = max(version, last.get(set_name, 0))
    found = []
    # In the order of the files; what only the database knows comes behind its set, or at the end.
    order = list(dict.fromkeys([key[0] for key in files] + sorted(key[0] for key in rows | half)))
    for key in sorted(files | rows | half, key=lambda key: (order.index(key[0]), key[1])):
        file, row, stopped = files.get(key), rows.get(key), half.get(key)
        name = next(each.name for each in (file, row, stopped) if each is not None)
        state = _state(file, row, stopped, last.get(key[0], 0))
        found.append(MigrationStatus(*key, name, state, file, row, stopped))
    return tuple(found)


def advice(status: MigrationStatus, schema: str) -> str | None:
    """What to do about a dirty version; None when it is not dirty."""
    if status.dirty is None:
        return None
    script = _script(status.migration, status.dirty.direction, schema) if status.migration else None
    return describe(status.dirty, status.migration, goes_on=can_go_on(status.dirty, script))


def _state(file: Migration | None, row: Applied | None, dirty: Dirty | None, last: int) -> State:
    if dirty is not None:
        return State.DIRTY
    if row is None:
        return State.LATE if file is not None and file.version < last else State.PENDING
    if file is None:
        return State.MISSING
    return State.APPLIED if file.checksum == row.checksum else State.CHANGED


def _read(target: MigrationTarget) -> tuple[tuple[Applied, ...], tuple[Dirty, ...]]:
    store = Store(target.schema)
    with connected(target.conninfo) as connection:
        applied = store.applied(connection)
        dirty = store.dirty(connection)
    return (
        tuple(row for row in applied if target.includes(row.set_name)),
        tuple(row for row in dirty if target.includes(row.set_name)),
    )


def _unreadable(migration: Migration, schema: str) -> list[str]:
    problems = []
    for direction in ("up", "down"):
        try:
            _script(migration, "up" if direction == "up" else "down", schema)
        except BadMigrationFiles as error:
            problems.append(str(error))
    return problems


def _script(migration: Migration, direction: Direction, schema: str) -> Script | None:
    try:
        return read_script(migration, direction=direction, schema=schema)
    except FileMissing:
        return None


def _complaint(status: MigrationStatus, schema: str) -> list[str]:
    if status.state is State.CHANGED and status.migration and status.applied:
        return [changed(status.migration, status.applied)]
    if status.state is State.LATE and status.migration:
        return [late(status.migration)]
    if status.state is State.MISSING:
        label = label_of(status.set_name, status.version, status.name)
        return [f"{label} is applied, and there is no file of it: lost, or of a newer vsyncd than this"]
    text = advice(status, schema)
    return [text] if text else []
