"""Runs one script in one transaction with its row in the record. outside.py runs those that cannot."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psycopg

from vsyncd.migrate.connections import in_one_line
from vsyncd.migrate.errors import StatementFailed
from vsyncd.migrate.files import Migration
from vsyncd.migrate.options import LOCK_TIMEOUT_MS
from vsyncd.migrate.script import Direction, Script
from vsyncd.migrate.statements import Statement
from vsyncd.migrate.store import Store

OnWait = Callable[[str], None]

# Others had the locks first: lock_timeout passed, or PostgreSQL chose us to end a deadlock.
IN_THE_WAY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
# Seconds between two attempts to get a lock, at the most. Meanwhile those that waited behind us go on.
_PAUSE = 5.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One migration that was applied or taken back."""

    migration: Migration
    direction: Direction
    duration_ms: int


@dataclass(frozen=True, kw_only=True)
class Where:
    """The database that scripts run on. `patience`: seconds for which each script tries for the locks it needs;
    `on_wait` hears of each attempt that gave up, and where."""

    connection: psycopg.Connection
    store: Store
    patience: float
    on_wait: OnWait | None = None


class LockTimedOut(Exception):  # noqa: N818  named for what happened, as the others
    """A lock was not to be had. `place` is the statement's."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


@dataclass(slots=True)
class LockRetry:
    """Tries again, later and later, until `seconds` have passed."""

    seconds: float
    attempts: int = 0
    began: float = field(default_factory=time.monotonic)

    def wait(self, wait: LockTimedOut, on_wait: OnWait | None) -> bool:
        """Wait for the next attempt. False: there is none."""
        self.attempts += 1
        pause = random.uniform(0.5, 1) * min(_PAUSE, 0.2 * 2**self.attempts)  # noqa: S311  not to try in step
        if time.monotonic() + pause > self.began + self.seconds:
            return False
        if on_wait is not None:
            on_wait(wait.place)
        time.sleep(pause)
        return True

    @property
    def reason(self) -> str:
        """Why there was no further attempt."""
        return f"others held a lock it needs, at each of {self.attempts} attempts"


def run_in_transaction(where: Where, script: Script) -> Step | None:
    """Run it. None: another process did it meanwhile. Raises StatementFailed."""
    patience = LockRetry(where.patience)
    while True:
        begin = time.monotonic()
        try:
            with _failing_at(script), where.connection.transaction():
                duration_ms = _attempt(where, script, begin)
        except LockTimedOut as wait:
            if not patience.wait(wait, where.on_wait):
                raise StatementFailed(_failure(wait.place, patience.reason, script)) from wait.__cause__
        else:
            if duration_ms is None:
                return None
            return Step(migration=script.migration, direction=script.direction, duration_ms=duration_ms)


def _attempt(where: Where, script: Script, begin: float) -> int | None:
    where.store.hold(where.connection)
    if is_done(where, script):
        return None
    lock_timeout = script.options.lock_timeout
    set_timeouts(where, LOCK_TIMEOUT_MS if lock_timeout is None else lock_timeout, script, local=True)
    for statement in script.statements:
        try:
            where.connection.execute(statement.text.encode())
        except psycopg.Error as error:
            place = place_of(error, script, statement)
            if isinstance(error, IN_THE_WAY):
                raise LockTimedOut(place) from error
            raise StatementFailed(_failure(place, in_one_line(error), script)) from error
    return record(where, script, begin)


def is_done(where: Where, script: Script) -> bool:
    """Whether the record says that there is nothing to run."""
    return where.store.has(where.connection, script.migration) == (script.direction == "up")


def record(where: Where, script: Script, begin: float) -> int:
    """Note that it ran, from `begin` on the monotonic clock until now; in milliseconds."""
    duration_ms = round((time.monotonic() - begin) * 1000)
    if script.direction == "up":
        where.store.record(where.connection, script.migration, duration_ms=duration_ms)
    else:
        where.store.forget(where.connection, script.migration)
    return duration_ms


def set_timeouts(where: Where, lock_timeout: int, script: Script, *, local: bool) -> None:
    """For what is executed from now on; `local`: in this transaction. Milliseconds."""
    where.connection.execute(
        "SELECT set_config('lock_timeout', %s, %s), set_config('statement_timeout', %s, %s)",
        [f"{lock_timeout}ms", local, f"{script.options.statement_timeout}ms", local],
    )


def place_of(error: psycopg.Error, script: Script, statement: Statement) -> str:
    """File, line and statement that an error points to."""
    position = error.diag.statement_position
    return script.place(statement, int(position) if position else None)


@contextlib.contextmanager
def _failing_at(script: Script) -> Iterator[None]:
    # What fails at COMMIT (a deferred constraint, a connection that went) belongs to the file, and to no line of it.
    try:
        yield
    except psycopg.Error as error:
        raise StatementFailed(_failure(str(script.path), in_one_line(error), script)) from error


def _failure(place: str, reason: str, script: Script) -> str:
    """What an operator reads: where, why, and how the database was left."""
    return f"{place}: {reason.rstrip('.')}. The set {script.migration.set_name} stays at version {script.stays_at}"
