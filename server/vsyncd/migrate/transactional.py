"""Runs a script in one transaction, together with its row in schema_migrations."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from vsyncd.migrate.connections import in_one_line
from vsyncd.migrate.errors import StatementFailed
from vsyncd.migrate.files import Migration
from vsyncd.migrate.script import LOCK_TIMEOUT_MS, Direction, Script
from vsyncd.migrate.statements import Statement
from vsyncd.migrate.store import MigrationStore

OnWait = Callable[[str], None]

# lock_timeout has passed, or PostgreSQL has ended a deadlock.
LOCK_ERRORS = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
# Between two attempts to get a lock. Meanwhile the sessions that queued behind this one proceed.
_MAX_PAUSE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """A migration that was applied or reverted."""

    migration: Migration
    direction: Direction
    duration_ms: int


@dataclass(frozen=True, kw_only=True)
class MigrationSession:
    """The connection on which scripts run.

    Each script tries for `lock_timeout` seconds to get its locks. `on_wait` is called with the location of each
    statement that did not get one.
    """

    connection: psycopg.Connection
    store: MigrationStore
    lock_timeout: float
    on_wait: OnWait | None = None


class LockNotAvailable(Exception):  # noqa: N818 - names the condition, like psycopg's error
    """A statement did not get a lock."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


@dataclass(slots=True)
class LockRetry:
    """Repeats attempts with growing pauses for `seconds`."""

    seconds: float
    attempts: int = 0
    started: float = field(default_factory=time.monotonic)

    def wait(self, location: str, on_wait: OnWait | None) -> bool:
        """Wait for the next attempt. Returns False if the time is over."""
        self.attempts += 1
        pause = random.uniform(0.5, 1) * min(_MAX_PAUSE_S, 0.2 * 2**self.attempts)  # noqa: S311 - spreads attempts
        if time.monotonic() + pause > self.started + self.seconds:
            return False
        if on_wait is not None:
            on_wait(location)
        time.sleep(pause)
        return True

    @property
    def reason(self) -> str:
        """The reason for the failure when the time is over."""
        return f"other sessions held a needed lock during all {self.attempts} attempts"


def run_in_transaction(session: MigrationSession, script: Script) -> Step | None:
    """Run the script. Returns None if another process has run it meanwhile. Raises StatementFailed."""
    retry = LockRetry(session.lock_timeout)
    while True:
        start = time.monotonic()
        try:
            with session.connection.transaction():
                return _attempt(session, script, start)
        except LockNotAvailable as error:
            if not retry.wait(error.location, session.on_wait):
                raise _failure(error.location, retry.reason, script) from error.__cause__
        except psycopg.Error as error:
            # COMMIT failed, because of a deferred constraint or a lost connection. No line of the file is the cause.
            raise _failure(str(script.path), in_one_line(error), script) from error


def _attempt(session: MigrationSession, script: Script, start: float) -> Step | None:
    session.store.lock_table(session.connection)
    if is_done(session, script):
        return None
    lock_timeout_ms = script.options.lock_timeout
    set_timeouts(session, LOCK_TIMEOUT_MS if lock_timeout_ms is None else lock_timeout_ms, script, local=True)
    for statement in script.statements:
        try:
            session.connection.execute(statement.text.encode())
        except psycopg.Error as error:
            location = location_of(error, script, statement)
            if isinstance(error, LOCK_ERRORS):
                raise LockNotAvailable(location) from error
            raise _failure(location, in_one_line(error), script) from error
    return record(session, script, start)


def is_done(session: MigrationSession, script: Script) -> bool:
    """Whether the version is already applied or reverted."""
    return session.store.is_applied(session.connection, script.migration) == (script.direction == "up")


def record(session: MigrationSession, script: Script, start: float) -> Step:
    """Record that the script ran since `start`, a time of the monotonic clock."""
    duration_ms = round((time.monotonic() - start) * 1000)
    if script.direction == "up":
        session.store.insert(session.connection, script.migration, duration_ms=duration_ms)
    else:
        session.store.delete(session.connection, script.migration)
    return Step(migration=script.migration, direction=script.direction, duration_ms=duration_ms)


def set_timeouts(session: MigrationSession, lock_timeout_ms: int, script: Script, *, local: bool) -> None:
    """Set the timeouts for the following statements; with `local` until the end of the transaction."""
    session.connection.execute(
        "SELECT set_config('lock_timeout', %s, %s), set_config('statement_timeout', %s, %s)",
        [f"{lock_timeout_ms}ms", local, f"{script.options.statement_timeout}ms", local],
    )


def location_of(error: psycopg.Error, script: Script, statement: Statement) -> str:
    position = error.diag.statement_position
    return script.location(statement, int(position) if position else None)


def unchanged(location: str, reason: str, script: Script) -> str:
    """Returns the message about a failed script: location, reason and the version of the set."""
    set_name = script.migration.set_name
    return f"{location}: {reason.rstrip('.')}. The set {set_name} remains at version {script.version_on_failure}"


def _failure(location: str, reason: str, script: Script) -> StatementFailed:
    return StatementFailed(unchanged(location, reason, script))
