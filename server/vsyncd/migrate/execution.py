"""Runs a script: in one transaction with its row in schema_migrations, or outside a transaction, by statement.

Outside a transaction the progress is committed to schema_migrations_dirty before each statement: a set with a row there
is dirty. The transaction that records the version deletes the row.
"""

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from vsyncd.migrate.connections import in_one_line
from vsyncd.migrate.dirty_state import IndexBuild, can_resume, digest, partial_state, remedy
from vsyncd.migrate.errors import StatementFailed
from vsyncd.migrate.files import Migration
from vsyncd.migrate.script import LOCK_TIMEOUT_MS, Direction, Script
from vsyncd.migrate.statements import Statement
from vsyncd.migrate.store import Dirty, MigrationStore

OnWait = Callable[[str], None]

# lock_timeout has passed, or PostgreSQL has ended a deadlock.
_LOCK_ERRORS = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
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
    on_wait: OnWait


@dataclass(slots=True)
class _LockRetry:
    """Repeats attempts with growing pauses for `seconds`."""

    seconds: float
    attempts: int = 0
    started: float = field(default_factory=time.monotonic)

    def wait(self, location: str, on_wait: OnWait) -> bool:
        """Wait for the next attempt. Returns False if the time is over."""
        self.attempts += 1
        pause = random.uniform(0.5, 1) * min(_MAX_PAUSE_S, 0.2 * 2**self.attempts)  # noqa: S311 - spreads attempts
        if time.monotonic() + pause > self.started + self.seconds:
            return False
        on_wait(location)
        time.sleep(pause)
        return True

    @property
    def reason(self) -> str:
        return f"other sessions held a needed lock during all {self.attempts} attempts"


def run_in_transaction(session: MigrationSession, script: Script) -> Step | None:
    """Run the script. Returns None if another process has run it meanwhile. Raises StatementFailed."""
    retry = _LockRetry(session.lock_timeout)
    while True:
        start = time.monotonic()
        statement: Statement | None = None
        try:
            with session.connection.transaction():
                session.store.lock_table(session.connection)
                if _is_done(session, script):
                    return None
                _set_timeouts(session, LOCK_TIMEOUT_MS, script, local=True)
                for statement in script.statements:
                    session.connection.execute(statement.text.encode())
                statement = None
                return _record(session, script, start)
        except psycopg.Error as error:
            # COMMIT failed, by a deferred constraint or a lost connection, unless a statement is the cause.
            location, reason = str(script.path), in_one_line(error)
            if statement is not None:
                location = _location_of(error, script, statement)
                if isinstance(error, _LOCK_ERRORS):
                    if retry.wait(location, session.on_wait):
                        continue
                    reason = retry.reason
            raise StatementFailed(_unchanged(location, reason, script)) from error


def run_without_transaction(
    session: MigrationSession, script: Script, *, interrupted: Dirty | None = None
) -> Step | None:
    """Run the script, or resume an `interrupted` run. Returns None if another process has run it meanwhile.

    Raises StatementFailed; the set is dirty then, unless nothing was executed.
    """
    if _is_done(session, script):
        return None
    start = time.monotonic()
    done = interrupted.done if interrupted else 0
    for number in range(done, len(script.statements)):
        _Statement(session, script, number, interrupted=interrupted if number == done else None).run()
    with session.connection.transaction():
        session.store.lock_table(session.connection)
        step = _record(session, script, start)
        session.store.clear_dirty(session.connection, script.migration.set_name)
    return step


class _Statement:
    """One statement of the script, with its index. `interrupted`: a previous run stopped at this statement."""

    def __init__(self, session: MigrationSession, script: Script, number: int, *, interrupted: Dirty | None) -> None:
        self._session = session
        self._script = script
        self._number = number
        self._statement = script.statements[number]
        self._partial = partial_state(self._statement)
        self._interrupted = interrupted

    def run(self) -> None:
        """Execute the statement. Retries without a lock, unless a part of it may have been committed.

        Raises StatementFailed.
        """
        if self._was_completed():
            return
        connection, script = self._session.connection, self._script
        if self._interrupted is not None:
            invalid_before = self._interrupted.invalid_before
        else:
            invalid_before = self._partial.invalid_before(connection)
        # Checked before the progress is recorded: afterwards an index of that name is considered the statement's own.
        conflict = self._name_conflict()
        self._session.store.record_progress(
            connection,
            script.migration,
            direction=script.direction,
            checksum=digest(script.statements[: self._number]),
            done=self._number,
            line=self._statement.line,
            error=conflict,
            invalid_before=invalid_before,
        )
        if conflict is not None:
            raise self._failure(script.location(self._statement), conflict, executed=False)
        # Concurrent statements wait for old transactions, but no session queues behind them.
        default_ms = LOCK_TIMEOUT_MS if self._statement.is_exclusive else 0
        _set_timeouts(self._session, default_ms, script, local=False)
        retry = _LockRetry(self._session.lock_timeout)
        while True:
            try:
                # Before the first attempt too, which may follow a killed run or `force`.
                self._drop_invalid_indexes(invalid_before)
                connection.execute(self._partial.next_statement(connection, self._statement.text).encode())
            except psycopg.Error as error:
                if self._was_completed():
                    return
                location = _location_of(error, script, self._statement)
                is_repeatable = script.options.repeatable or not self._statement.may_commit
                if not (isinstance(error, _LOCK_ERRORS) and is_repeatable) and not self._is_pending_detach(error):
                    raise self._failure(location, in_one_line(error)) from error
                if not retry.wait(location, self._session.on_wait):
                    raise self._failure(location, retry.reason) from error
            else:
                return

    def _was_completed(self) -> bool:
        """Whether an interrupted run has completed the statement: the server may have continued after a kill.

        A rejected statement was not completed: an index that exists now is another one.
        """
        connection = self._session.connection
        is_unknown = self._interrupted is not None and self._interrupted.error is None
        return is_unknown and not connection.broken and self._partial.is_complete(connection)

    def _is_pending_detach(self, error: psycopg.Error) -> bool:
        # The server may also have continued until the detach was pending.
        text = self._statement.text
        is_other_state = isinstance(error, psycopg.errors.ObjectNotInPrerequisiteState)
        return is_other_state and self._partial.next_statement(self._session.connection, text) != text

    def _drop_invalid_indexes(self, invalid_before: list[int]) -> None:
        connection = self._session.connection
        for index in self._partial.invalid_indexes(connection):
            if index.oid in invalid_before:
                continue
            try:
                connection.execute(index.drop())
            except psycopg.errors.InsufficientPrivilege as error:
                # Only superusers may use the schema of TOAST tables.
                reason = (
                    f"a previous attempt left the invalid index {index.schema}.{index.name}, which this role cannot"
                    f" drop. Run as a superuser: {index.drop().as_string()}"
                )
                raise self._failure(self._script.location(self._statement), reason) from error

    def _name_conflict(self) -> str | None:
        """Returns a message if a valid index already has the name of the index to be built."""
        build = self._partial
        if not isinstance(build, IndexBuild) or build.may_exist or not build.is_complete(self._session.connection):
            return None
        return f"the index {build.name} already exists and may be different: drop or rename it"

    def _failure(self, location: str, reason: str, *, executed: bool = True) -> StatementFailed:
        """Record the error. Returns it with the state of the set."""
        store, connection = self._session.store, self._session.connection
        set_name = self._script.migration.set_name
        message = _unchanged(location, reason, self._script)
        with contextlib.suppress(psycopg.Error):  # the connection is lost, and the statement's outcome unknown
            if self._number == 0 and (self._statement.is_atomic or not executed):
                store.clear_dirty(connection, set_name)
                return StatementFailed(message)
            store.record_error(connection, set_name, reason)
            (dirty,) = (row for row in store.dirty(connection) if row.set_name == set_name)
            resumable = can_resume(dirty, self._script)
            advice = remedy(dirty, self._script.migration, resumable=resumable)
            return StatementFailed(f"{message} and is dirty. {advice}")
        return StatementFailed(f"{message} and is dirty: run `vsyncd migrate status` for details")


def _is_done(session: MigrationSession, script: Script) -> bool:
    return session.store.is_applied(session.connection, script.migration) == (script.direction == "up")


def _record(session: MigrationSession, script: Script, start: float) -> Step:
    """Record that the script ran since `start`, a time of the monotonic clock."""
    duration_ms = round((time.monotonic() - start) * 1000)
    if script.direction == "up":
        session.store.insert(session.connection, script.migration, duration_ms=duration_ms)
    else:
        session.store.delete(session.connection, script.migration)
    return Step(migration=script.migration, direction=script.direction, duration_ms=duration_ms)


def _set_timeouts(session: MigrationSession, default_lock_timeout_ms: int, script: Script, *, local: bool) -> None:
    """Set the script's timeouts for the following statements; with `local` until the end of the transaction."""
    lock_timeout_ms = script.options.lock_timeout
    if lock_timeout_ms is None:
        lock_timeout_ms = default_lock_timeout_ms
    session.connection.execute(
        "SELECT set_config('lock_timeout', %s, %s), set_config('statement_timeout', %s, %s)",
        [f"{lock_timeout_ms}ms", local, f"{script.options.statement_timeout}ms", local],
    )


def _location_of(error: psycopg.Error, script: Script, statement: Statement) -> str:
    position = error.diag.statement_position
    return script.location(statement, int(position) if position else None)


def _unchanged(location: str, reason: str, script: Script) -> str:
    """Returns the message about a failed script: location, reason and the version at which the set remains."""
    migration = script.migration
    version = migration.previous if script.direction == "up" else migration.version
    return f"{location}: {reason.rstrip('.')}. The set {migration.set_name} remains at version {version}"
