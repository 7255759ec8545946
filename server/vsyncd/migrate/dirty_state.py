"""Decides whether a dirty set can be resumed, and describes the remedy. No I/O except reading the file."""

import hashlib
from collections.abc import Sequence

from vsyncd.migrate.files import Migration, label_of
from vsyncd.migrate.partial_state import is_repeatable
from vsyncd.migrate.script import Script, find_script
from vsyncd.migrate.statements import Statement
from vsyncd.migrate.store import Dirty


def digest(statements: Sequence[Statement]) -> str:
    """Returns a checksum of the executed statements, which shows whether the file still starts with them."""
    return hashlib.sha256("\0".join(statement.text for statement in statements).encode()).hexdigest()


def can_resume(dirty: Dirty, script: Script | None) -> bool:
    """Whether the file can be resumed at the statement that failed.

    The file must still start with the executed statements. The failed statement must have had no effect (the server
    rejected all of it), or be repeatable by its kind or by the file's options.
    """
    if script is None or script.options.transaction or dirty.done >= len(script.statements):
        return False
    if digest(script.statements[: dirty.done]) != dirty.checksum:
        return False
    statement = script.statements[dirty.done]
    was_rejected = dirty.error is not None and statement.is_atomic
    return was_rejected or script.options.repeatable or is_repeatable(statement)


def describe(dirty: Dirty, migration: Migration | None, *, resumable: bool) -> str:
    """Returns the message about a dirty set: the cause and the remedy. `migration`: its files, if they exist."""
    file = _file_name(dirty, migration)
    cause = dirty.error or "its process was killed, lost its connection or is still running"
    return (
        f"the set {dirty.set_name} is dirty: {file} stopped at line {dirty.line}, statement {dirty.done + 1} "
        f"({cause}). {remedy(dirty, migration, resumable=resumable)}"
    )


def remedy(dirty: Dirty, migration: Migration | None, *, resumable: bool) -> str:
    """Returns the instructions for the operator."""
    if resumable:
        return f"Fix the cause, then run `vsyncd migrate {dirty.direction} --set {dirty.set_name}` to resume"
    if migration is None:
        return "Its files are missing: restore them, then run `vsyncd migrate status` again"
    before, after = migration.previous, dirty.version
    if dirty.direction == "down":
        before, after = after, before
    return (
        f"Check in the database what that statement did. Undo the file by hand and run `vsyncd migrate force {before} "
        f"--set {dirty.set_name}` (the file will run again), or complete it by hand and run `force {after}`"
    )


def explain(dirty: Dirty, migration: Migration | None, schema: str) -> str:
    """Returns `describe` of a dirty set, after reading its file. Raises BadMigrationFiles."""
    script = find_script(migration, direction=dirty.direction, schema=schema)
    return describe(dirty, migration, resumable=can_resume(dirty, script))


def _file_name(dirty: Dirty, migration: Migration | None) -> str:
    path = migration and (migration.up if dirty.direction == "up" else migration.down)
    if path is None:
        return f"{label_of(dirty.set_name, dirty.version, dirty.name)}.{dirty.direction}.sql"
    return f"{dirty.set_name}/{path.name}"
