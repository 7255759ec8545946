"""Runs a script that must run outside a transaction, one statement after the other.

How far it has come is noted before each statement, in a row of its own: a set with such a row is dirty. The row goes
with the commit that records the version.
"""

from __future__ import annotations

import contextlib
import time

import psycopg

from vsyncd.migrate.connections import in_one_line
from vsyncd.migrate.dirt import can_go_on, digest, remedy
from vsyncd.migrate.errors import StatementFailed
from vsyncd.migrate.execution import (
    IN_THE_WAY,
    LockTimedOut,
    Patience,
    Step,
    Where,
    is_done,
    place_of,
    record,
    set_timeouts,
)
from vsyncd.migrate.index_builds import index_build
from vsyncd.migrate.options import LOCK_TIMEOUT_MS
from vsyncd.migrate.script import Script
from vsyncd.migrate.statements import Statement
from vsyncd.migrate.store import Dirty


def run_outside(where: Where, script: Script, *, stopped: Dirty | None = None) -> Step | None:
    """Run it, from where it `stopped` on. None: another process did it meanwhile.

    Raises StatementFailed; the set is dirty then, unless nothing was done at all.
    """
    if is_done(where, script):
        return None
    begin = time.monotonic()
    done = stopped.done if stopped else 0
    for number, statement in enumerate(script.statements[done:], done):
        # A process that was killed may have come to the end of the statement. What the server refused did not, and the
        # index that is there then is somebody else's.
        if number == done and stopped is not None and stopped.error is None and _was_built(where, statement):
            continue
        _Statement(where, script, number).run()
    with where.connection.transaction():
        where.store.hold(where.connection)
        duration_ms = record(where, script, begin)
        where.store.clean(where.connection, script.migration.set_name)
    return Step(migration=script.migration, direction=script.direction, duration_ms=duration_ms)


def _was_built(where: Where, statement: Statement) -> bool:
    build = index_build(statement)
    return build is not None and build.is_done(where.connection)


class _Statement:
    """One statement of such a script, by its number from 0."""

    def __init__(self, where: Where, script: Script, number: int) -> None:
        self._where = where
        self._script = script
        self._number = number
        self._statement = script.statements[number]
        self._build = index_build(self._statement)

    def run(self) -> None:
        """Execute it, again and again while others hold the locks it needs, unless a part of it may stand by then.

        Raises StatementFailed.
        """
        # Before it is noted that the statement was come to: from then on an index of that name passes for ours.
        taken = self._taken()
        self._mark(error=taken)
        if taken is not None:
            raise self._failed(self._script.place(self._statement), taken, began=False)
        set_timeouts(self._where, self._lock_timeout(), self._script, local=False)
        patience = Patience(self._where.patience)
        while True:
            try:
                return self._attempt()
            except LockTimedOut as wait:
                if not patience.wait(wait, self._where.on_wait):
                    raise self._failed(wait.place, patience.reason) from wait.__cause__

    def _attempt(self) -> None:
        try:
            # Also in front of the first attempt: `force` may have had the whole file begin anew.
            if self._build is not None:
                self._build.drop_invalid(self._where.connection)
            self._where.connection.execute(self._statement.text.encode())
        except psycopg.Error as error:
            place = place_of(error, self._script, self._statement)
            if isinstance(error, IN_THE_WAY) and self._can_repeat():
                raise LockTimedOut(place) from error
            raise self._failed(place, in_one_line(error)) from error

    def _can_repeat(self) -> bool:
        return self._script.options.repeatable or not self._statement.may_commit

    def _lock_timeout(self) -> int:
        given = self._script.options.lock_timeout
        if given is not None:
            return given
        # What is concurrent waits for old transactions and keeps nobody waiting behind it.
        return LOCK_TIMEOUT_MS if self._statement.is_exclusive else 0

    def _taken(self) -> str | None:
        """What to say of an index that has the name of the one to be built, and that another one made."""
        build = self._build
        if build is None or build.may_exist or not build.is_done(self._where.connection):
            return None
        return f"the index {build.name} is there already, and may be another one: drop it, or rename it"

    def _mark(self, *, error: str | None) -> None:
        self._where.store.mark(
            self._where.connection,
            self._script.migration,
            direction=self._script.direction,
            checksum=digest(self._script.statements[: self._number]),
            done=self._number,
            line=self._statement.line,
            error=error,
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
