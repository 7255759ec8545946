"""Runs what a command comes to, one process at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from psycopg import sql

from vsyncd.migrate.connections import connected, renew
from vsyncd.migrate.dirty_state import can_go_on, describe
from vsyncd.migrate.errors import FileMissing, SetDirty
from vsyncd.migrate.files import DEFAULT_SET, Migration, discover
from vsyncd.migrate.lock import migration_lock
from vsyncd.migrate.non_transactional import run_without_transaction
from vsyncd.migrate.options import LOCK_TIMEOUT_MS
from vsyncd.migrate.plan import Command, Down, Goto, Plan, Up, check_version
from vsyncd.migrate.script import Script, read_script
from vsyncd.migrate.store import Dirty, Store
from vsyncd.migrate.transactional import IN_THE_WAY, LockRetry, LockTimedOut, OnWait, Step, Where, run_in_transaction

OnStep = Callable[[Step], None]


@dataclass(frozen=True, kw_only=True)
class MigrationTarget:
    """What is migrated, and how.

    `conninfo` belongs to the owner role. `root` is a folder of sets in place of vsyncd's own. `sets` restricts the
    target to these sets (None: all of them). `service_user`, if it is not the owner, is granted its rights in the
    target's sets after `up`. `lock_timeout` is how many seconds to wait for another process that migrates, and for
    each migration to get the locks it needs.
    """

    conninfo: str
    schema: str = "vsync"
    root: Path | None = None
    sets: Collection[str] | None = None
    service_user: str | None = None
    lock_timeout: float = 300.0

    def files(self) -> tuple[Migration, ...]:
        """Returns the migrations of its sets. Raises BadMigrationFiles."""
        return discover(self.root, sets=self.sets)

    def includes(self, set_name: str) -> bool:
        """Whether a set belongs to the target."""
        return self.sets is None or set_name in self.sets


def migrate_up(
    target: MigrationTarget, *, steps: int | None = None, on_step: OnStep | None = None, on_wait: OnWait | None = None
) -> tuple[Step, ...]:
    """Apply what is missing, at most `steps` migrations, and give the service's role its rights.

    Any number of processes may do so at once: each migration is applied by one of them, and all return when it is
    done. A file that stopped half way goes on where it can. Raises MigrateError; what `on_step` was told of before
    stands. `on_wait` hears of each attempt that did not get its locks.
    """
    migrations = target.files()
    store = Store(target.schema)
    with connected(target.conninfo) as connection:
        # Where there is nothing to do, none of many instances waits for another, and reading is all that it takes.
        is_dirty = any(target.includes(row.set_name) for row in store.dirty(connection))
        pending = Up().plan(migrations, store.applied(connection)).migrations
        if not pending and not is_dirty and not _needs_grants(connection, target):
            return ()
        with migration_lock(target.conninfo, schema=target.schema, timeout=target.lock_timeout):
            prepare_store(connection, target, migrations, on_wait)
            done = _run(connection, target, Up(steps), on_step, on_wait)
            grant_to_service(connection, target)
    return done


def migrate_down(
    target: MigrationTarget, *, steps: int | None = 1, on_step: OnStep | None = None, on_wait: OnWait | None = None
) -> tuple[Step, ...]:
    """Take back what was applied last: `steps` migrations, or all (None). Raises MigrateError."""
    return _under_lock(target, Down(steps), on_step, on_wait)


def migrate_to(
    target: MigrationTarget, version: int, *, on_step: OnStep | None = None, on_wait: OnWait | None = None
) -> tuple[Step, ...]:
    """Bring one set (that of the target, else DEFAULT_SET) to a version, up or down; 0: nothing of it.

    Raises MigrateError.
    """
    return _under_lock(of_one_set(target)[0], Goto(version), on_step, on_wait)


def force_version(target: MigrationTarget, version: int) -> None:
    """Have the record say that one set (that of the target, else DEFAULT_SET) is at this version, without running
    anything: its versions up to it are there as their files are now, none above is, and the set is not dirty.

    Raises MigrateError.
    """
    target, set_name = of_one_set(target)
    migrations = target.files()
    check_version(migrations, version)
    store = Store(target.schema)
    with (
        connected(target.conninfo) as connection,
        migration_lock(target.conninfo, schema=target.schema, timeout=target.lock_timeout),
    ):
        prepare_store(connection, target, migrations)
        with connection.transaction():
            store.hold(connection)
            there = [migration for migration in migrations if migration.version <= version]
            store.restamp(connection, there, set_name=set_name, to=version)
            store.clean(connection, set_name)


def preview(target: MigrationTarget, command: Command) -> tuple[Script, ...]:
    """What a command would run now, in order. It reads the record and takes no lock. Raises MigrateError."""
    if isinstance(command, Goto):
        target, _ = of_one_set(target)
    with connected(target.conninfo) as connection:
        return tuple(script for script, _ in _prepare(connection, target, command))


def prepare_store(
    connection: psycopg.Connection,
    target: MigrationTarget,
    migrations: Sequence[Migration],
    on_wait: OnWait | None = None,
) -> None:
    """Create the record, or change that of an earlier release, while its readers do not wait for it. Raises psycopg's
    error if others held a lock all the time that the target allows for."""
    max_version = max((migration.version for migration in migrations), default=0)
    patience = LockRetry(target.lock_timeout)
    while True:
        try:
            with connection.transaction():
                connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_TIMEOUT_MS}ms"])
                return Store(target.schema).prepare(connection, max_version=max_version)
        except IN_THE_WAY:
            if not patience.wait(LockTimedOut(f"the record in the schema {target.schema}"), on_wait):
                raise


def of_one_set(target: MigrationTarget) -> tuple[MigrationTarget, str]:
    """Returns the target restricted to a single set, and that set: DEFAULT_SET unless the target names exactly one."""
    (set_name,) = target.sets if target.sets is not None and len(target.sets) == 1 else (DEFAULT_SET,)
    return replace(target, sets=(set_name,)), set_name


def _under_lock(
    target: MigrationTarget, command: Command, on_step: OnStep | None, on_wait: OnWait | None
) -> tuple[Step, ...]:
    migrations = target.files()  # before anything is waited for
    with (
        connected(target.conninfo) as connection,
        migration_lock(target.conninfo, schema=target.schema, timeout=target.lock_timeout),
    ):
        prepare_store(connection, target, migrations, on_wait)
        done = _run(connection, target, command, on_step, on_wait)
        if any(step.direction == "up" for step in done):
            grant_to_service(connection, target)
    return done


def _run(
    connection: psycopg.Connection,
    target: MigrationTarget,
    command: Command,
    on_step: OnStep | None,
    on_wait: OnWait | None,
) -> tuple[Step, ...]:
    store = Store(target.schema)
    where = Where(connection=connection, store=store, patience=target.lock_timeout, on_wait=on_wait)
    done = []
    for script, stopped in _prepare(connection, target, command):
        if script.options.transaction:
            step = run_in_transaction(where, script)
        else:
            step = run_without_transaction(where, script, stopped=stopped)
        if step is not None:
            done.append(step)
            if on_step is not None:
                on_step(step)
        # What it SETs is for this file: the next one, or granting, does not depend on what ran before it.
        renew(connection, target.conninfo)
    return tuple(done)


def _prepare(
    connection: psycopg.Connection, target: MigrationTarget, command: Command
) -> list[tuple[Script, Dirty | None]]:
    """All that is to be run, and where those that had begun stopped.

    All files are read before the first one runs: one that cannot run should not leave the work half done.
    """
    store = Store(target.schema)
    applied = tuple(row for row in store.applied(connection) if target.includes(row.set_name))
    dirty = {row.set_name: row for row in store.dirty(connection) if target.includes(row.set_name)}
    migrations = target.files()
    for row in dirty.values():
        file = _file_of(row, migrations)
        if not can_go_on(row, _script_of(row, file, target.schema)):
            raise SetDirty(describe(row, file, goes_on=False))
    plan = command.plan(migrations, applied)
    scripts = [
        (read_script(each, direction=plan.direction, schema=target.schema), _stopped(each, plan, dirty))
        for each in plan.migrations
    ]
    for row in dirty.values():  # those that this would leave as they are, without a word
        raise SetDirty(describe(row, _file_of(row, migrations), goes_on=True))
    return scripts


def _stopped(migration: Migration, plan: Plan, dirty: dict[str, Dirty]) -> Dirty | None:
    """Where this migration stopped before. Raises SetDirty when another one of its set did, or the other way round."""
    row = dirty.get(migration.set_name)
    if row is None:
        return None
    if (row.version, row.direction) == (migration.version, plan.direction):
        del dirty[migration.set_name]
        return row
    file = migration if migration.version == row.version else None
    raise SetDirty(describe(row, file, goes_on=True))


def _file_of(row: Dirty, migrations: tuple[Migration, ...]) -> Migration | None:
    key = (row.set_name, row.version)
    return next((each for each in migrations if (each.set_name, each.version) == key), None)


def _script_of(row: Dirty, file: Migration | None, schema: str) -> Script | None:
    try:
        return read_script(file, direction=row.direction, schema=schema) if file else None
    except FileMissing:
        return None


def _needs_grants(connection: psycopg.Connection, target: MigrationTarget) -> bool:
    if target.service_user is None:
        return False
    return connection.execute("SELECT current_user <> %s", [target.service_user]).fetchone() == (True,)


def grant_to_service(connection: psycopg.Connection, target: MigrationTarget) -> None:
    """Grants the service's role its rights in the target's sets."""
    if not _needs_grants(connection, target):
        return
    grant = sql.Identifier(target.schema, "grant_to_service")
    # A migration of the core set creates the function. It does not exist if other sets are migrated alone.
    if connection.execute("SELECT to_regproc(%s)", [grant.as_string()]).fetchone() != (None,):
        sets = None if target.sets is None else sorted(target.sets)
        connection.execute(sql.SQL("SELECT {}(%s, %s)").format(grant), [target.service_user, sets])
