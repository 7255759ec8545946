"""How the files and a database stand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from vsyncd.migrate.connections import connected
from vsyncd.migrate.dirt import can_go_on, describe
from vsyncd.migrate.errors import BadMigrationFiles, FileMissing
from vsyncd.migrate.files import Migration, read_set, set_folders
from vsyncd.migrate.plan import changed, late
from vsyncd.migrate.runner import Target
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


class Standing(NamedTuple):
    """One version: its file, if there is one, its row in the record, if there is one, and how far a dirty one came."""

    set_name: str
    version: int
    name: str
    state: State
    migration: Migration | None
    applied: Applied | None
    dirty: Dirty | None


def fetch_status(target: Target) -> tuple[Standing, ...]:
    """Every version that there is, in files or in the database, by set and number.

    Raises BadMigrationFiles and DatabaseRefused.
    """
    return standings(target.files(), *_read(target))


def find_problems(target: Target, *, with_database: bool = True) -> tuple[str, ...]:
    """All that is wrong, a line each: numbers left out or taken twice, missing down files, files that cannot run; and,
    against the database, files that were changed after they were applied, that are missing, or late, and dirty sets.

    Raises BadMigrationFiles when there are no files to read, and DatabaseRefused.
    """
    problems: list[str] = []
    migrations: list[Migration] = []
    for folder in set_folders(target.root, set_name=target.set_name):
        found = read_set(folder)
        problems += [flaw.text for flaw in found.flaws]
        migrations += found.migrations
    problems += [text for each in migrations for text in _unreadable(each, target.schema)]
    if with_database:
        applied, dirty = _read(target)
        problems += [text for each in standings(migrations, applied, dirty) for text in _complaint(each, target.schema)]
    return tuple(problems)


def standings(
    migrations: Sequence[Migration], applied: Sequence[Applied], dirty: Sequence[Dirty]
) -> tuple[Standing, ...]:
    """The same, from what was read."""
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
        found.append(Standing(*key, name, state, file, row, stopped))
    return tuple(found)


def advice(standing: Standing, schema: str) -> str | None:
    """What to do about a dirty version; None when it is not dirty."""
    if standing.dirty is None:
        return None
    script = _script(standing.migration, standing.dirty.direction, schema) if standing.migration else None
    return describe(standing.dirty, standing.migration, goes_on=can_go_on(standing.dirty, script))


def _state(file: Migration | None, row: Applied | None, dirty: Dirty | None, last: int) -> State:
    if dirty is not None:
        return State.DIRTY
    if row is None:
        return State.LATE if file is not None and file.version < last else State.PENDING
    if file is None:
        return State.MISSING
    return State.APPLIED if file.checksum == row.checksum else State.CHANGED


def _read(target: Target) -> tuple[tuple[Applied, ...], tuple[Dirty, ...]]:
    store = Store(target.schema)
    with connected(target.conninfo) as connection:
        applied = store.applied(connection)
        dirty = store.dirty(connection, target.set_name)
    return tuple(row for row in applied if target.set_name in {None, row.set_name}), dirty


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


def _complaint(standing: Standing, schema: str) -> list[str]:
    if standing.state is State.CHANGED and standing.migration and standing.applied:
        return [changed(standing.migration, standing.applied)]
    if standing.state is State.LATE and standing.migration:
        return [late(standing.migration)]
    if standing.state is State.MISSING:
        name = f"{standing.set_name}/{standing.version:06d}_{standing.name}"
        return [f"{name} is applied, and there is no file of it: lost, or of a newer vsyncd than this"]
    text = advice(standing, schema)
    return [text] if text else []
