"""Compares the migration files with a database, and finds problems in both."""

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple, get_args

import psycopg
from psycopg import sql

from vsyncd.migrate.connections import connected
from vsyncd.migrate.dirty_state import can_resume, describe
from vsyncd.migrate.errors import BadMigrationFiles
from vsyncd.migrate.files import Migration, label_of, read_set, set_folders
from vsyncd.migrate.plan import changed_message, last_versions, out_of_order_message
from vsyncd.migrate.runner import MigrationTarget
from vsyncd.migrate.script import Direction, find_script
from vsyncd.migrate.store import Applied, Dirty, MigrationStore

# Excludes tables on which an index is being built: it is invalid until then.
_INVALID_INDEXES = """
SELECT namespace.nspname, index.relname, indrelid::regclass::text, index.relkind = 'I'
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class AS index ON index.oid = indexrelid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = index.relnamespace
WHERE NOT indisvalid
AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index AS build WHERE build.relid = indrelid)
ORDER BY 1, 2"""
_PENDING_DETACHES = """
SELECT inhparent::regclass::text, inhrelid::regclass::text
FROM pg_catalog.pg_inherits WHERE inhdetachpending ORDER BY 1, 2"""
_TRANSIENT_NAME = re.compile(r".*_cc(?:new|old)[0-9]*", re.DOTALL)


class State(Enum):
    APPLIED = "applied"
    PENDING = "pending"
    DIRTY = "dirty"
    CHANGED = "changed"
    MISSING = "missing"
    """Applied without a file: the database is newer than this vsyncd, or the file was lost."""
    LATE = "late"
    """Not applied, although a later version is."""


class MigrationStatus(NamedTuple):
    """A version, with its file and its rows if they exist."""

    set_name: str
    version: int
    name: str
    state: State
    migration: Migration | None
    applied: Applied | None
    dirty: Dirty | None


class Findings(NamedTuple):
    """The findings of `validate`, one line each. Warnings may be intentional."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def fetch_status(target: MigrationTarget, migrations: Sequence[Migration] | None = None) -> tuple[MigrationStatus, ...]:
    """Returns the status of every version in files or database, by set and version.

    `migrations`: the target's files, if they have been read. Raises BadMigrationFiles, DatabaseRefused.
    """
    store = MigrationStore(target.schema)
    files = {(each.set_name, each.version): each for each in (target.files() if migrations is None else migrations)}
    with connected(target.conninfo) as connection:
        applied = [row for row in store.applied(connection) if target.includes(row.set_name)]
        dirty = [row for row in store.dirty(connection) if target.includes(row.set_name)]
    rows = {(row.set_name, row.version): row for row in applied}
    dirty_rows = {(row.set_name, row.version): row for row in dirty}
    last = last_versions(applied)
    statuses = []
    # Sets without files come last.
    order = list(dict.fromkeys([key[0] for key in files] + sorted(key[0] for key in rows | dirty_rows)))
    for key in sorted(files | rows | dirty_rows, key=lambda key: (order.index(key[0]), key[1])):
        file, row, dirty_row = files.get(key), rows.get(key), dirty_rows.get(key)
        name = next(each.name for each in (file, row, dirty_row) if each is not None)
        state = _state(file, row, dirty_row, last.get(key[0], 0))
        statuses.append(MigrationStatus(*key, name, state, file, row, dirty_row))
    return tuple(statuses)


def current_versions(conninfo: str, schema: str) -> dict[str, int]:
    """Returns the last applied version of each set. Raises DatabaseRefused."""
    with connected(conninfo) as connection:
        return MigrationStore(schema).versions(connection)


def outdated_sets(current: Mapping[str, int], latest: Mapping[str, int]) -> dict[str, int]:
    """Returns the sets whose version in the database is too old, with the required version.

    A newer version is accepted, because migrations expand the schema first and contract it later.
    """
    return {set_name: version for set_name, version in latest.items() if current.get(set_name, 0) < version}


def find_problems(target: MigrationTarget, *, with_database: bool = True) -> Findings:
    """Check the files (gaps, duplicates, missing down files, invalid statements) and their state in the database.

    Raises MigrateError.
    """
    sets = [read_set(folder) for folder in set_folders(target.root, sets=target.sets)]
    found = [problem for each in sets for problem in each.problems]
    migrations = [migration for each in sets for migration in each.migrations]
    problems = [problem.text for problem in found if not problem.is_warning]
    warnings = tuple(problem.text for problem in found if problem.is_warning)
    problems += [text for each in migrations for text in _script_problems(each, target.schema)]
    if with_database:
        problems += [text for each in fetch_status(target, migrations) if (text := _problem(each, target.schema))]
        problems += find_invalid_objects(target.conninfo)
    return Findings(tuple(problems), warnings)


def advice(status: MigrationStatus, schema: str) -> str | None:
    """Returns the cause and the remedy for a dirty version, or None if it is not dirty. Raises BadMigrationFiles."""
    if status.dirty is None:
        return None
    script = find_script(status.migration, direction=status.dirty.direction, schema=schema)
    return describe(status.dirty, status.migration, resumable=can_resume(status.dirty, script))


def _state(file: Migration | None, row: Applied | None, dirty: Dirty | None, last: int) -> State:
    if dirty is not None:
        return State.DIRTY
    if row is None:
        return State.LATE if file is not None and file.version < last else State.PENDING
    if file is None:
        return State.MISSING
    return State.APPLIED if file.checksum == row.checksum else State.CHANGED


def _script_problems(migration: Migration, schema: str) -> list[str]:
    problems = []
    for direction in get_args(Direction):
        try:
            find_script(migration, direction=direction, schema=schema)
        except BadMigrationFiles as error:
            problems.append(str(error))
    return problems


def _problem(status: MigrationStatus, schema: str) -> str | None:
    if status.state is State.CHANGED and status.migration and status.applied:
        return changed_message(status.migration, status.applied)
    if status.state is State.LATE and status.migration:
        return out_of_order_message(status.migration)
    if status.state is State.MISSING:
        label = label_of(status.set_name, status.version, status.name)
        return f"{label} is applied but has no file: the file was lost, or it belongs to a newer vsyncd"
    return advice(status, schema)


def find_invalid_objects(conninfo: str) -> tuple[str, ...]:
    """Describes the invalid indexes and pending detaches of the database, with remedies. Raises DatabaseRefused."""
    with connected(conninfo) as connection, connection.transaction():
        # So that regclass includes the schema.
        connection.execute("SET LOCAL search_path = ''")
        detaches = (
            f"the partition {partition} of {table} is pending detach; left by an interrupted DETACH PARTITION"
            f" CONCURRENTLY: ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE"
            for table, partition in connection.execute(_PENDING_DETACHES)
        )
        return (*_invalid_indexes(connection), *detaches)


def _invalid_indexes(connection: psycopg.Connection) -> list[str]:
    found = []
    for schema, name, table, is_partitioned in connection.execute(_INVALID_INDEXES).fetchall():
        index = sql.Identifier(schema, name).as_string()
        drop = f"DROP INDEX CONCURRENTLY {index}"
        if is_partitioned:
            remedy = "not all partitions have an attached index: ALTER INDEX ... ATTACH PARTITION"
        elif _TRANSIENT_NAME.fullmatch(name):
            remedy = f"left by an interrupted REINDEX CONCURRENTLY: {drop}"
        else:
            remedy = f"left by an interrupted CREATE or DROP INDEX CONCURRENTLY: {drop}, and create it again if needed"
        found.append(f"the index {index} of {table} is invalid; {remedy}")
    return found
