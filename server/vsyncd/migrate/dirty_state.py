"""Dirty sets: the partial state that interrupted statements leave, whether a file can be resumed, and the remedy.

CREATE and REINDEX CONCURRENTLY leave invalid indexes, DROP INDEX CONCURRENTLY leaves its index invalid, and DETACH
PARTITION CONCURRENTLY leaves a partition that is pending detach. REFRESH MATERIALIZED VIEW CONCURRENTLY and DETACH
PARTITION FINALIZE are atomic.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from psycopg import Connection, sql
from psycopg.rows import class_row

from vsyncd.migrate.files import Migration, label_of
from vsyncd.migrate.script import Script
from vsyncd.migrate.statements import DETACH, INDEX_BUILD, INDEX_DROP, REINDEX, Statement
from vsyncd.migrate.store import Dirty

_INDEXES = """
SELECT index.oid, namespace.nspname AS schema, index.relname AS name, pg_index.indisvalid AS is_valid
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class AS index ON index.oid = pg_index.indexrelid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = index.relnamespace
WHERE pg_index.indrelid """
_OF_TABLE = f"{_INDEXES} = to_regclass(%(table)s)"
# REINDEX CONCURRENTLY gives these names to the new and the old indexes of a table and of its TOAST table. The latter
# come first: the role may be unable to drop them.
_TRANSIENT = f"""
WITH tables (oid) AS ({{tables}})
{_INDEXES} IN (SELECT oid FROM tables UNION SELECT reltoastrelid FROM pg_catalog.pg_class JOIN tables USING (oid))
AND NOT pg_index.indisvalid AND index.relname ~ '_cc(new|old)[0-9]*$'
ORDER BY namespace.nspname <> 'pg_toast', index.oid"""  # noqa: S608 - constants
_REINDEXED_TABLES = {
    "INDEX": """
        SELECT indrelid FROM pg_catalog.pg_index WHERE indexrelid = to_regclass(%(name)s)
        UNION SELECT indrelid FROM pg_catalog.pg_partition_tree(to_regclass(%(name)s))
        JOIN pg_catalog.pg_index ON indexrelid = relid""",
    "TABLE": """
        SELECT to_regclass(%(name)s)::oid
        UNION SELECT relid FROM pg_catalog.pg_partition_tree(to_regclass(%(name)s))""",
    "SCHEMA": "SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace(%(name)s)",
    "DATABASE": "SELECT oid FROM pg_catalog.pg_class",
}
_ATTACHED = """
SELECT inhdetachpending FROM pg_catalog.pg_inherits
WHERE inhparent = to_regclass(%(table)s) AND inhrelid = to_regclass(%(partition)s)"""
# Executing them again has the same result.
_IDEMPOTENT = re.compile(
    r"(?:VACUUM|ANALYZE|CLUSTER|REINDEX|REFRESH MATERIALIZED VIEW|DROP (?:DATABASE|TABLESPACE) IF EXISTS"
    r"|ALTER TYPE .* ADD VALUE IF NOT EXISTS)\b",
    re.IGNORECASE,
)


class Index(NamedTuple):
    oid: int
    schema: str
    name: str
    is_valid: bool

    def drop(self) -> sql.Composed:
        return sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(self.schema, self.name))


class PartialState:
    """The state that an interrupted statement can leave. This class: none."""

    def is_complete(self, connection: Connection[Any]) -> bool:  # noqa: ARG002 - for subclasses
        """Whether the statement has been completed; False if unknown."""
        return False

    def invalid_indexes(self, connection: Connection[Any]) -> list[Index]:  # noqa: ARG002 - for subclasses
        """Returns the invalid indexes that an attempt may have left."""
        return []

    def invalid_before(self, connection: Connection[Any]) -> list[int]:
        """Returns the oids of such indexes before the first attempt, which are not its own."""
        return [index.oid for index in self.invalid_indexes(connection)]

    def next_statement(self, connection: Connection[Any], text: str) -> str:  # noqa: ARG002 - for subclasses
        """Returns the next statement: `text`, or one that completes an interrupted `text`."""
        return text


@dataclass(frozen=True)
class IndexBuild(PartialState):
    """CREATE INDEX CONCURRENTLY. `name` is None if PostgreSQL chooses it. `may_exist`: with IF NOT EXISTS."""

    name: str | None
    table: str
    may_exist: bool

    def is_complete(self, connection: Connection[Any]) -> bool:
        return any(index.is_valid and index.name == self.name for index in self._indexes(connection))

    def invalid_indexes(self, connection: Connection[Any]) -> list[Index]:
        invalid = [index for index in self._indexes(connection) if not index.is_valid]
        return [index for index in invalid if self.name in {None, index.name}]

    def invalid_before(self, connection: Connection[Any]) -> list[int]:
        """An invalid index of the same name must be dropped in any case."""
        return super().invalid_before(connection) if self.name is None else []

    def _indexes(self, connection: Connection[Any]) -> list[Index]:
        return _fetch(connection, _OF_TABLE, {"table": self.table})


@dataclass(frozen=True)
class IndexDrop(PartialState):
    """DROP INDEX CONCURRENTLY, which also drops an index that an interrupted attempt left invalid."""

    name: str

    def is_complete(self, connection: Connection[Any]) -> bool:
        return connection.execute("SELECT to_regclass(%s)", [self.name]).fetchone() == (None,)


@dataclass(frozen=True)
class Reindex(PartialState):
    """REINDEX CONCURRENTLY of an index, a table, a schema or a database. `name` is None for the current database."""

    kind: str
    name: str | None

    def invalid_indexes(self, connection: Connection[Any]) -> list[Index]:
        tables = _REINDEXED_TABLES[self.kind]
        return _fetch(connection, _TRANSIENT.format(tables=tables), {"name": self.name})


@dataclass(frozen=True)
class Detach(PartialState):
    """DETACH PARTITION CONCURRENTLY or FINALIZE."""

    table: str
    partition: str

    def is_complete(self, connection: Connection[Any]) -> bool:
        return self._is_pending(connection) is None

    def next_statement(self, connection: Connection[Any], text: str) -> str:
        if not self._is_pending(connection):
            return text
        return f"ALTER TABLE {self.table} DETACH PARTITION {self.partition} FINALIZE"

    def _is_pending(self, connection: Connection[Any]) -> bool | None:
        """Returns None if the partition is not attached."""
        row = connection.execute(_ATTACHED, {"table": self.table, "partition": self.partition}).fetchone()
        return row and bool(row[0])


def partial_state(statement: Statement) -> PartialState:
    if match := INDEX_BUILD.match(statement.code):
        name = match["name"] and _unquoted(match["name"])
        return IndexBuild(name, match["table"], match["may_exist"] is not None)
    if match := INDEX_DROP.match(statement.code):
        return IndexDrop(match["name"])
    if (match := REINDEX.match(statement.code)) and statement.is_concurrent_reindex:
        kind = match["kind"].upper()
        # PostgreSQL rejects SYSTEM: catalogs cannot be reindexed concurrently.
        return Reindex(kind, match["name"]) if kind in _REINDEXED_TABLES else PartialState()
    if match := DETACH.match(statement.code):
        return Detach(match["table"], match["partition"])
    return PartialState()


def is_repeatable(statement: Statement) -> bool:
    """Whether the statement can be executed again after an unknown outcome."""
    state = partial_state(statement)
    if isinstance(state, IndexBuild):
        return state.name is not None
    return isinstance(state, IndexDrop | Detach) or _IDEMPOTENT.match(statement.code) is not None


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
    path = migration and (migration.up if dirty.direction == "up" else migration.down)
    label = label_of(dirty.set_name, dirty.version, dirty.name)
    file = f"{dirty.set_name}/{path.name}" if path else f"{label}.{dirty.direction}.sql"
    cause = dirty.error or "its process was killed, lost its connection or is still running"
    return (
        f"the set {dirty.set_name} is dirty: {file} stopped at line {dirty.line}, statement {dirty.done + 1} "
        f"({cause}). {remedy(dirty, migration, resumable=resumable)}"
    )


def remedy(dirty: Dirty, migration: Migration | None, *, resumable: bool) -> str:
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


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _fetch(connection: Connection[Any], query: str, values: dict[str, str | None]) -> list[Index]:
    with connection.cursor(row_factory=class_row(Index)) as cursor:
        return cursor.execute(query.encode(), values).fetchall()
