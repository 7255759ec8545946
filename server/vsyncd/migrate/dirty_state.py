"""Decides whether a dirty set can continue, and says what to do if it cannot. Without I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from vsyncd.migrate.files import Migration, label_of
from vsyncd.migrate.partial_state import is_repeatable
from vsyncd.migrate.script import Script
from vsyncd.migrate.statements import Statement
from vsyncd.migrate.store import Dirty


def digest(statements: Sequence[Statement]) -> str:
    """What tells whether the statements that were done are still those of the file."""
    return hashlib.sha256("\0".join(statement.text for statement in statements).encode()).hexdigest()


def can_go_on(dirty: Dirty, script: Script | None) -> bool:
    """Whether the file can be run from where it stopped.

    It can when what was done is still its beginning, and the statement that it stopped at is known not to have taken
    effect (the server refused it as a whole) or can be executed again, by its kind or because the file says so.
    """
    if script is None or script.options.transaction or dirty.done >= len(script.statements):
        return False
    if digest(script.statements[: dirty.done]) != dirty.checksum:
        return False
    statement = script.statements[dirty.done]
    was_refused = dirty.error is not None and statement.is_atomic
    return was_refused or script.options.repeatable or is_repeatable(statement)


def describe(dirty: Dirty, migration: Migration | None, *, goes_on: bool) -> str:
    """The message for every command that finds a dirty set: the cause, and what to do."""
    file = _file_name(dirty, migration)
    cause = dirty.error or "its process was killed, lost its connection or is still running"
    return (
        f"the set {dirty.set_name} is dirty: {file} stopped at line {dirty.line}, in statement {dirty.done + 1} "
        f"({cause}). {remedy(dirty, migration, goes_on=goes_on)}"
    )


def remedy(dirty: Dirty, migration: Migration | None, *, goes_on: bool) -> str:
    """What to do about it. `migration`: its files, unless they are lost."""
    if goes_on:
        return f"Mend the cause, then `vsyncd migrate {dirty.direction} --set {dirty.set_name}` goes on from there"
    if migration is None:
        return "Its files are missing: restore them, then look at `vsyncd migrate status` again"
    before, after = migration.previous, dirty.version
    if dirty.direction == "down":
        before, after = after, before
    return (
        f"See in the database what that statement did; then `vsyncd migrate force {before} --set {dirty.set_name}` "
        f"(undone by hand: the whole file is run again) or `force {after}` (completed by hand)"
    )


def _file_name(dirty: Dirty, migration: Migration | None) -> str:
    path = migration and (migration.up if dirty.direction == "up" else migration.down)
    if path is None:
        return f"{label_of(dirty.set_name, dirty.version, dirty.name)}.{dirty.direction}.sql"
    return f"{dirty.set_name}/{path.name}"
