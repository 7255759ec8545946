"""Runs a script outside a transaction, statement by statement.

Before each statement the progress is committed to schema_migrations_dirty: a set with a row there is dirty. The
transaction that records the version deletes the row.
"""

import contextlib
import time

import psycopg

from vsyncd.migrate.connections import in_one_line
from vsyncd.migrate.dirty_state import can_resume, digest, remedy
from vsyncd.migrate.errors import StatementFailed
from vsyncd.migrate.partial_state import IndexBuild, partial_state
from vsyncd.migrate.script import LOCK_TIMEOUT_MS, Script
from vsyncd.migrate.store import Dirty
from vsyncd.migrate.transactional import (
    LOCK_ERRORS,
    LockNotAvailable,
    LockRetry,
    MigrationSession,
    Step,
    is_done,
    location_of,
    record,
    set_timeouts,
    unchanged,
)


def run_without_transaction(
    session: MigrationSession, script: Script, *, interrupted: Dirty | None = None
) -> Step | None:
    """Run the script, or resume an `interrupted` run. Returns None if another process has run it meanwhile.

    Raises StatementFailed; the set is dirty then, unless nothing was executed.
    """
    if is_done(session, script):
        return None
    start = time.monotonic()
    done = interrupted.done if interrupted else 0
    for number in range(done, len(script.statements)):
        _Statement(session, script, number, interrupted=interrupted if number == done else None).run()
    with session.connection.transaction():
        session.store.lock_table(session.connection)
        step = record(session, script, start)
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
            return None
        if self._interrupted is not None:
            invalid_before = self._interrupted.invalid_before
        else:
            invalid_before = self._partial.invalid_before(self._session.connection)
        # Checked before the progress is recorded: afterwards an index of that name is considered the statement's own.
        conflict = self._name_conflict()
        self._record_progress(error=conflict, invalid_before=invalid_before)
        if conflict is not None:
            raise self._failure(self._script.location(self._statement), conflict, executed=False)
        set_timeouts(self._session, self._lock_timeout_ms(), self._script, local=False)
        retry = LockRetry(self._session.lock_timeout)
        while True:
            try:
                return self._attempt(invalid_before)
            except LockNotAvailable as error:
                if not retry.wait(error.location, self._session.on_wait):
                    raise self._failure(error.location, retry.reason) from error.__cause__

    def _attempt(self, invalid_before: list[int]) -> None:
        connection = self._session.connection
        try:
            # Before the first attempt too, which may follow a killed run or `force`.
            self._drop_invalid_indexes(invalid_before)
            text = self._partial.next_statement(connection, self._statement.text)
            connection.execute(text.encode())
        except psycopg.Error as error:
            if self._was_completed():
                return
            location = location_of(error, self._script, self._statement)
            is_repeatable = self._script.options.repeatable or not self._statement.may_commit
            if (isinstance(error, LOCK_ERRORS) and is_repeatable) or self._is_pending_detach(error):
                raise LockNotAvailable(location) from error
            raise self._failure(location, in_one_line(error)) from error

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

    def _lock_timeout_ms(self) -> int:
        if self._script.options.lock_timeout is not None:
            return self._script.options.lock_timeout
        # Concurrent statements wait for old transactions, but no session queues behind them.
        return LOCK_TIMEOUT_MS if self._statement.is_exclusive else 0

    def _name_conflict(self) -> str | None:
        """Returns a message if a valid index already has the name of the index to be built."""
        build = self._partial
        if not isinstance(build, IndexBuild) or build.may_exist or not build.is_complete(self._session.connection):
            return None
        return f"the index {build.name} already exists and may be different: drop or rename it"

    def _record_progress(self, *, error: str | None, invalid_before: list[int]) -> None:
        self._session.store.record_progress(
            self._session.connection,
            self._script.migration,
            direction=self._script.direction,
            checksum=digest(self._script.statements[: self._number]),
            done=self._number,
            line=self._statement.line,
            error=error,
            invalid_before=invalid_before,
        )

    def _failure(self, location: str, reason: str, *, executed: bool = True) -> StatementFailed:
        """Record the error. Returns it with the state of the set."""
        store, connection = self._session.store, self._session.connection
        set_name = self._script.migration.set_name
        message = unchanged(location, reason, self._script)
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
