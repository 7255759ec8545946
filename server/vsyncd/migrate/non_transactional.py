"""Runs a script that must run outside a transaction, one statement after the other.

Before each statement its number is recorded in a row of its own: a set with such a row is dirty. The row is deleted by
the commit that records the version.
"""

from __future__ import annotations

import contextlib
import time

import psycopg

from vsyncd.migrate.connections import in_one_line
from vsyncd.migrate.dirty_state import can_go_on, digest, remedy
from vsyncd.migrate.errors import StatementFailed
from vsyncd.migrate.options import LOCK_TIMEOUT_MS
from vsyncd.migrate.partial_state import IndexBuild, partial_state
from vsyncd.migrate.script import Script
from vsyncd.migrate.store import Dirty
from vsyncd.migrate.transactional import (
    IN_THE_WAY,
    LockRetry,
    LockTimedOut,
    Step,
    Where,
    is_done,
    place_of,
    record,
    set_timeouts,
)


def run_without_transaction(where: Where, script: Script, *, stopped: Dirty | None = None) -> Step | None:
    """Run it, from where it `stopped` on. None: another process did it meanwhile.

    Raises StatementFailed; the set is dirty then, unless nothing was done at all.
    """
    if is_done(where, script):
        return None
    begin = time.monotonic()
    done = stopped.done if stopped else 0
    for number in range(done, len(script.statements)):
        _Statement(where, script, number, stopped=stopped if number == done else None).run()
    with where.connection.transaction():
        where.store.hold(where.connection)
        duration_ms = record(where, script, begin)
        where.store.clean(where.connection, script.migration.set_name)
    return Step(migration=script.migration, direction=script.direction, duration_ms=duration_ms)


class _Statement:
    """One statement of such a script, by its number from 0. `stopped`: an earlier run stopped at it."""

    def __init__(self, where: Where, script: Script, number: int, *, stopped: Dirty | None) -> None:
        self._where = where
        self._script = script
        self._number = number
        self._statement = script.statements[number]
        self._partial = partial_state(self._statement)
        self._stopped = stopped

    def run(self) -> None:
        """Execute it, repeatedly while others hold the locks it needs, unless a part of it may be committed by then.

        Raises StatementFailed.
        """
        if self._was_completed():
            return None
        if self._stopped is not None:
            before = self._stopped.invalid_before
        else:
            before = self._partial.invalid_before(self._where.connection)
        # Looked up before the statement is recorded: from then on an index of that name counts as its own.
        taken = self._taken()
        self._mark(error=taken, invalid_before=before)
        if taken is not None:
            raise self._failed(self._script.place(self._statement), taken, began=False)
        set_timeouts(self._where, self._lock_timeout(), self._script, local=False)
        patience = LockRetry(self._where.patience)
        while True:
            try:
                return self._attempt(before)
            except LockTimedOut as wait:
                if not patience.wait(wait, self._where.on_wait):
                    raise self._failed(wait.place, patience.reason) from wait.__cause__

    def _attempt(self, before: list[int]) -> None:
        try:
            # Also before the first attempt: it may follow a run that was killed, or `force`.
            self._drop_leftovers(before)
            text = self._partial.next_statement(self._where.connection, self._statement.text)
            self._where.connection.execute(text.encode())
        except psycopg.Error as error:
            if self._was_completed():
                return
            place = place_of(error, self._script, self._statement)
            if (isinstance(error, IN_THE_WAY) and self._can_repeat()) or self._is_pending_detach(error):
                raise LockTimedOut(place) from error
            raise self._failed(place, in_one_line(error)) from error

    def _was_completed(self) -> bool:
        """Whether an earlier run did the whole statement. After its process was killed, the server may still have been
        executing it. What the server refused was not done: an index that exists now is somebody else's."""
        connection = self._where.connection
        is_unknown = self._stopped is not None and self._stopped.error is None
        return is_unknown and not connection.broken and self._partial.is_complete(connection)

    def _is_pending_detach(self, error: psycopg.Error) -> bool:
        # Likewise: pending since we looked.
        text = self._statement.text
        is_other_state = isinstance(error, psycopg.errors.ObjectNotInPrerequisiteState)
        return is_other_state and self._partial.next_statement(self._where.connection, text) != text

    def _drop_leftovers(self, before: list[int]) -> None:
        connection = self._where.connection
        for index in self._partial.invalid_indexes(connection):
            if index.oid in before:
                continue
            try:
                connection.execute(index.drop())
            except psycopg.errors.InsufficientPrivilege as error:
                # The index of a TOAST table: its schema admits superusers only.
                reason = (
                    f"an earlier attempt left the index {index.schema}.{index.name} invalid, and this role cannot drop"
                    f" it. Run as a superuser: {index.drop().as_string()}"
                )
                raise self._failed(self._script.place(self._statement), reason) from error

    def _can_repeat(self) -> bool:
        return self._script.options.repeatable or not self._statement.may_commit

    def _lock_timeout(self) -> int:
        given = self._script.options.lock_timeout
        if given is not None:
            return given
        # What is concurrent waits for old transactions and keeps nobody waiting behind it.
        return LOCK_TIMEOUT_MS if self._statement.is_exclusive else 0

    def _taken(self) -> str | None:
        """The complaint about a valid index that already has the name of the one to be built."""
        build = self._partial
        if not isinstance(build, IndexBuild) or build.may_exist or not build.is_complete(self._where.connection):
            return None
        return f"the index {build.name} is there already, and may be another one: drop it, or rename it"

    def _mark(self, *, error: str | None, invalid_before: list[int]) -> None:
        self._where.store.mark(
            self._where.connection,
            self._script.migration,
            direction=self._script.direction,
            checksum=digest(self._script.statements[: self._number]),
            done=self._number,
            line=self._statement.line,
            error=error,
            invalid_before=invalid_before,
        )

    def _failed(self, place: str, reason: str, *, began: bool = True) -> StatementFailed:
        """Note it, and say how the set was left. A statement that `began` and is not atomic may have left something."""
        store, connection = self._where.store, self._where.connection
        set_name = self._script.migration.set_name
        stays = f"{place}: {reason.rstrip('.')}. The set {set_name} stays at version {self._script.stays_at}"
        with contextlib.suppress(psycopg.Error):  # a lost connection: then it is not known what became of it
            if self._number == 0 and (self._statement.is_atomic or not began):
                store.clean(connection, set_name)
                return StatementFailed(stays)
            store.note_error(connection, set_name, reason)
            (dirty,) = store.dirty(connection, set_name)
            goes_on = can_go_on(dirty, self._script)
            return StatementFailed(f"{stays} and is dirty. {remedy(dirty, self._script.migration, goes_on=goes_on)}")
        return StatementFailed(f"{stays} and is dirty: `vsyncd migrate status` says more")
