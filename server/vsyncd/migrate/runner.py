"""Executes the commands up, down, goto, force and adopt under the migration lock."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from psycopg import sql

from vsyncd.migrate.connections import connected, migration_lock, reset_session
from vsyncd.migrate.dirty_state import can_resume, describe
from vsyncd.migrate.errors import MigrateError, SetDirty
from vsyncd.migrate.execution import MigrationSession, OnWait, Step, run_in_transaction, run_without_transaction
from vsyncd.migrate.files import DEFAULT_SET, Migration, discover
from vsyncd.migrate.plan import ALL_PENDING, Command, Goto, Plan, Up, check_version
from vsyncd.migrate.script import Script, find_script, read_script
from vsyncd.migrate.store import APPLIED_TABLE, FLYWAY_TABLE, Dirty, MigrationStore, Tool, tool_of

OnStep = Callable[[Step], None]

# The new name of golang-migrate's table.
KEPT_TABLE = f"{APPLIED_TABLE}_golang_migrate"

_LOCK_FOREIGN = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE")
_READ_FOREIGN = sql.SQL("SELECT version, dirty FROM {}")
_RENAME = sql.SQL("ALTER TABLE {} RENAME TO {}")
# Constraints and indexes are renamed too, because vsyncd's table needs their names.
_CONSTRAINTS = "SELECT conname FROM pg_catalog.pg_constraint WHERE conrelid = %s::regclass AND contype IN ('p', 'u')"
_RENAME_CONSTRAINT = sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}")
_TABLE_EXISTS = "SELECT to_regclass(%s) IS NOT NULL"


@dataclass(frozen=True, kw_only=True)
class MigrationTarget:
    """The database and the migration sets.

    `conninfo` is the owner role's. `root` is a folder of sets; None: vsyncd's own. `sets` restricts the target to these
    sets; None: all. `service_user`, if it is not the owner, gets its privileges on the target's sets after `up`.
    `lock_timeout`: maximum seconds to wait for another migrating process, and for the locks of each migration.
    """

    conninfo: str
    schema: str = "vsync"
    root: Path | None = None
    sets: Collection[str] | None = None
    service_user: str | None = None
    lock_timeout: float = 300.0

    def files(self) -> tuple[Migration, ...]:
        return discover(self.root, sets=self.sets)

    def includes(self, set_name: str) -> bool:
        return self.sets is None or set_name in self.sets


def _ignore(_event: object) -> None:
    """The default of `on_step` and `on_wait`."""


def run_migrations(
    target: MigrationTarget, command: Command = ALL_PENDING, *, on_step: OnStep = _ignore, on_wait: OnWait = _ignore
) -> tuple[Step, ...]:
    """Execute a command, by default: apply all pending migrations. Grants the service's role its privileges.

    Several processes may apply migrations at the same time: one of them applies each migration, and all return
    afterwards. An interrupted file is resumed if possible. `on_step` is called after each migration, `on_wait` after
    each attempt that did not get its locks. Raises MigrateError; earlier steps remain applied.
    """
    target = _target_of(command, target)
    target.files()  # reports invalid files before connecting and waiting for the lock
    if isinstance(command, Up):
        with connected(target.conninfo) as connection:
            if _is_up_to_date(connection, target):
                return ()
    done = []
    with locked(target) as (connection, store):
        store.prepare(connection)
        session = MigrationSession(
            connection=connection, store=store, lock_timeout=target.lock_timeout, on_wait=on_wait
        )
        for script, interrupted in _prepare(connection, target, command):
            if script.options.transaction:
                step = run_in_transaction(session, script)
            else:
                step = run_without_transaction(session, script, interrupted=interrupted)
            if step is not None:
                done.append(step)
                on_step(step)
            # A file's settings must not affect the next file or the grants.
            reset_session(connection, target.conninfo)
        if isinstance(command, Up) or any(step.direction == "up" for step in done):
            grant_to_service(connection, target)
    return tuple(done)


def force_version(target: MigrationTarget, version: int) -> None:
    """Record that one set (the target's, or else DEFAULT_SET) has this version and is not dirty. Runs no file.

    Versions up to it are recorded as applied with their current checksums, later ones as not applied. Raises
    MigrateError.
    """
    target, set_name = single_set(target)
    migrations = target.files()
    check_version(migrations, version)
    with locked(target) as (connection, store):
        store.prepare(connection)
        with connection.transaction():
            store.lock_table(connection)
            store.set_version(connection, migrations, set_name=set_name, version=version)
            store.clear_dirty(connection, set_name)


def adopt_version(target: MigrationTarget) -> int:
    """Record golang-migrate's version for one set (the target's, or else DEFAULT_SET). Returns the version.

    Executes no file. golang-migrate's table in the target's schema is renamed to KEPT_TABLE. Raises MigrateError,
    also for a dirty version; nothing is changed then.
    """
    target, set_name = single_set(target)
    migrations = target.files()
    with locked(target) as (connection, store):
        _check_tool(connection, store, target.schema)
        with connection.transaction():
            version = _take_over(connection, target.schema)
            check_version(migrations, version)
            store.prepare(connection)
            store.set_version(connection, migrations, set_name=set_name, version=version)
        grant_to_service(connection, target)
    return version


def preview(target: MigrationTarget, command: Command) -> tuple[Script, ...]:
    """Returns the scripts that a command would run now, in order. Takes no lock. Raises MigrateError."""
    target = _target_of(command, target)
    with connected(target.conninfo) as connection:
        return tuple(script for script, _ in _prepare(connection, target, command))


def single_set(target: MigrationTarget) -> tuple[MigrationTarget, str]:
    """Returns the target restricted to a single set, and that set: DEFAULT_SET unless the target names exactly one."""
    (set_name,) = target.sets if target.sets is not None and len(target.sets) == 1 else (DEFAULT_SET,)
    return replace(target, sets=(set_name,)), set_name


@contextmanager
def locked(target: MigrationTarget) -> Iterator[tuple[psycopg.Connection, MigrationStore]]:
    """Hold the migration lock. Yields another connection, and the store. Raises MigrateError."""
    with (
        connected(target.conninfo) as connection,
        migration_lock(target.conninfo, schema=target.schema, timeout=target.lock_timeout),
    ):
        yield connection, MigrationStore(target.schema)


def _target_of(command: Command, target: MigrationTarget) -> MigrationTarget:
    return single_set(target)[0] if isinstance(command, Goto) else target


def _is_up_to_date(connection: psycopg.Connection, target: MigrationTarget) -> bool:
    """Whether `up` has nothing to do. It then needs neither the lock nor write privileges, in any instance."""
    migrations, store = target.files(), MigrationStore(target.schema)
    is_dirty = any(target.includes(row.set_name) for row in store.dirty(connection))
    pending = Up().plan(migrations, store.applied(connection)).migrations
    return not (pending or is_dirty or _needs_grants(connection, target))


def _prepare(
    connection: psycopg.Connection, target: MigrationTarget, command: Command
) -> list[tuple[Script, Dirty | None]]:
    """Returns the scripts to run, with the state of interrupted ones.

    Reads all files before the first one runs, so that an invalid file does not leave the work half done.
    """
    store = MigrationStore(target.schema)
    applied = tuple(row for row in store.applied(connection) if target.includes(row.set_name))
    dirty = {row.set_name: row for row in store.dirty(connection) if target.includes(row.set_name)}
    files = {(each.set_name, each.version): each for each in target.files()}
    for row in dirty.values():
        file = files.get((row.set_name, row.version))
        if not can_resume(row, find_script(file, direction=row.direction, schema=target.schema)):
            raise SetDirty(describe(row, file, resumable=False))
    plan = command.plan(tuple(files.values()), applied)
    scripts = [
        (read_script(each, direction=plan.direction, schema=target.schema), _interrupted(each, plan, dirty))
        for each in plan.migrations
    ]
    for row in dirty.values():  # sets that the command would leave dirty
        raise SetDirty(describe(row, files.get((row.set_name, row.version)), resumable=True))
    return scripts


def _interrupted(migration: Migration, plan: Plan, dirty: dict[str, Dirty]) -> Dirty | None:
    """Remove and return the state of an interrupted migration.

    Raises SetDirty if another migration of its set, or the other direction, was interrupted.
    """
    row = dirty.get(migration.set_name)
    if row is None:
        return None
    if (row.version, row.direction) == (migration.version, plan.direction):
        return dirty.pop(migration.set_name)
    file = migration if migration.version == row.version else None
    raise SetDirty(describe(row, file, resumable=True))


def _needs_grants(connection: psycopg.Connection, target: MigrationTarget) -> bool:
    if target.service_user is None:
        return False
    return connection.execute("SELECT current_user <> %s", [target.service_user]).fetchone() == (True,)


def grant_to_service(connection: psycopg.Connection, target: MigrationTarget) -> None:
    if not _needs_grants(connection, target):
        return
    grant = sql.Identifier(target.schema, "grant_to_service")
    # A migration of the core set creates the function. It does not exist if other sets are migrated alone.
    if connection.execute("SELECT to_regproc(%s)", [grant.as_string()]).fetchone() != (None,):
        sets = None if target.sets is None else sorted(target.sets)
        connection.execute(sql.SQL("SELECT {}(%s, %s)").format(grant), [target.service_user, sets])


def _check_tool(connection: psycopg.Connection, store: MigrationStore, schema: str) -> None:
    columns = store.columns(connection)
    tool = tool_of(columns)
    if tool is Tool.GOLANG_MIGRATE:
        return
    table = f"{schema}.{APPLIED_TABLE}"
    if tool is not None:
        raise MigrateError(f"{table} is the table of {tool.value}: {tool.advice}")
    if columns:
        raise MigrateError(f"{table} is already vsyncd's own table")
    flyway = sql.Identifier(schema, FLYWAY_TABLE).as_string()
    if connection.execute(_TABLE_EXISTS, [flyway]).fetchone() == (True,):
        raise MigrateError(f"{schema}.{FLYWAY_TABLE} is the table of {Tool.FLYWAY.value}: {Tool.FLYWAY.advice}")
    raise MigrateError(f"the table {table} of golang-migrate does not exist")


def _take_over(connection: psycopg.Connection, schema: str) -> int:
    """Rename golang-migrate's table. Returns its version, or 0 if nothing is applied."""
    table, kept = sql.Identifier(schema, APPLIED_TABLE), sql.Identifier(schema, KEPT_TABLE)
    connection.execute("SET LOCAL lock_timeout = '10s'")
    connection.execute(_LOCK_FOREIGN.format(table))
    version, dirty = connection.execute(_READ_FOREIGN.format(table)).fetchone() or (-1, False)
    if dirty:
        raise MigrateError(
            f"golang-migrate's version {version} is dirty: its up file, or the down file of the next version, failed."
            " Repair the database by hand, record its version with golang-migrate's `force V`, and adopt it again"
        )
    constraints = connection.execute(_CONSTRAINTS, [table.as_string()]).fetchall()
    connection.execute(_RENAME.format(table, sql.Identifier(KEPT_TABLE)))
    for number, (name,) in enumerate(constraints):
        new_name = sql.Identifier(f"{KEPT_TABLE}_key{number or ''}")
        connection.execute(_RENAME_CONSTRAINT.format(kept, sql.Identifier(name), new_name))
    return max(int(version), 0)
