"""Applies migrations and takes them back, each in one transaction with its row in the record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from vsyncd.migrate.connections import connected, in_one_line
from vsyncd.migrate.errors import StatementFailed
from vsyncd.migrate.files import Migration, discover
from vsyncd.migrate.lock import migration_lock
from vsyncd.migrate.plan import plan_down, plan_up
from vsyncd.migrate.script import Direction, Script, read_script
from vsyncd.migrate.statements import Statement
from vsyncd.migrate.store import Applied, Store


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is migrated, and how.

    `conninfo` belongs to the owner role. `root` is a folder of sets in place of vsyncd's own, `set_name` one of them.
    `service_user`, where it is not the owner, is given its rights after `up`. `lock_timeout` is in seconds.
    """

    conninfo: str
    schema: str = "vsync"
    root: Path | None = None
    set_name: str | None = None
    service_user: str | None = None
    lock_timeout: float = 300.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One migration that was applied or taken back."""

    migration: Migration
    direction: Direction
    duration_ms: int


OnStep = Callable[[Step], None]


def migrate_up(target: Target, *, steps: int | None = None, on_step: OnStep | None = None) -> tuple[Step, ...]:
    """Apply what is missing, at most `steps` migrations, and give the service's role its rights.

    Any number of processes may do so at once: each migration is applied by one of them, and all return when it is
    done. Raises MigrateError; what `on_step` was told of before stands.
    """
    migrations = discover(target.root, set_name=target.set_name)
    store = Store(target.schema)
    with connected(target.conninfo) as connection:
        # Where there is nothing to do, none of many instances waits for another, and reading is all that it takes.
        if not plan_up(migrations, store.applied(connection)) and not _needs_grants(connection, target):
            return ()
        with migration_lock(target.conninfo, schema=target.schema, timeout=target.lock_timeout):
            store.prepare(connection)
            plan = plan_up(migrations, store.applied(connection), steps=steps)
            done = _run_all(connection, target.schema, plan, "up", on_step)
            if _needs_grants(connection, target):
                _grant(connection, target)
    return done


def migrate_down(target: Target, *, steps: int | None = 1, on_step: OnStep | None = None) -> tuple[Step, ...]:
    """Take back what was applied last: `steps` migrations, or all (None). Raises MigrateError."""
    migrations = discover(target.root, set_name=target.set_name)
    store = Store(target.schema)
    with (
        connected(target.conninfo) as connection,
        migration_lock(target.conninfo, schema=target.schema, timeout=target.lock_timeout),
    ):
        plan = plan_down(migrations, _of_set(store.applied(connection), target.set_name), steps=steps)
        return _run_all(connection, target.schema, plan, "down", on_step)


def _run_all(
    connection: psycopg.Connection, schema: str, plan: Iterable[Migration], direction: Direction, on_step: OnStep | None
) -> tuple[Step, ...]:
    store = Store(schema)
    # All files are read before the first one runs: one that cannot run should not leave the work half done.
    scripts = [read_script(migration, direction=direction, schema=schema) for migration in plan]
    done = []
    for script in scripts:
        step = _run(connection, store, script)
        if step is not None:
            done.append(step)
            if on_step is not None:
                on_step(step)
    return tuple(done)


def _run(connection: psycopg.Connection, store: Store, script: Script) -> Step | None:
    """Run it in one transaction with its row. None: another process did it meanwhile."""
    begin = time.monotonic()
    migration = script.migration
    with _failing_at(script), connection.transaction():
        store.hold(connection)
        if store.has(connection, migration) == (script.direction == "up"):
            return None
        for statement in script.statements:
            _execute(connection, script, statement)
        duration_ms = round((time.monotonic() - begin) * 1000)
        if script.direction == "up":
            store.record(connection, migration, duration_ms=duration_ms)
        else:
            store.forget(connection, migration)
    return Step(migration=migration, direction=script.direction, duration_ms=duration_ms)


def _execute(connection: psycopg.Connection, script: Script, statement: Statement) -> None:
    try:
        connection.execute(statement.text.encode())
    except psycopg.Error as error:
        position = error.diag.statement_position
        line = statement.line_at(int(position) if position else None)
        raise StatementFailed(script.failure(in_one_line(error), line=line)) from error


@contextlib.contextmanager
def _failing_at(script: Script) -> Iterator[None]:
    # What fails at COMMIT (a deferred constraint, a connection that went) belongs to the file, and to no line of it.
    try:
        yield
    except psycopg.Error as error:
        raise StatementFailed(script.failure(in_one_line(error))) from error


def _needs_grants(connection: psycopg.Connection, target: Target) -> bool:
    if target.service_user is None:
        return False
    return connection.execute("SELECT current_user <> %s", [target.service_user]).fetchone() == (True,)


def _grant(connection: psycopg.Connection, target: Target) -> None:
    grant = sql.Identifier(target.schema, "grant_to_service")
    # It comes with the first migration of vsyncd's own set; another set alone has none.
    if connection.execute("SELECT to_regproc(%s)", [grant.as_string()]).fetchone() != (None,):
        connection.execute(sql.SQL("SELECT {}(%s)").format(grant), [target.service_user])


def _of_set(applied: tuple[Applied, ...], set_name: str | None) -> tuple[Applied, ...]:
    return tuple(row for row in applied if set_name in {None, row.set_name})
