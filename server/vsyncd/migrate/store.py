"""The record: the table schema_migrations in vsyncd's own schema has the applied versions, schema_migrations_dirty the
files that run outside a transaction and are not complete. The first releases of vsyncd created the former alone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection, Connection, sql
from psycopg.rows import class_row, tuple_row

from vsyncd.migrate.errors import ForeignRecord
from vsyncd.migrate.files import Migration
from vsyncd.migrate.foreign import tool_of
from vsyncd.migrate.script import Direction

_SCHEMA_IS_THERE = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s"
# Only a table of vsyncd: other tools also name theirs schema_migrations.
_COLUMN_TYPES = """
SELECT attname, atttypid::regtype::text FROM pg_catalog.pg_attribute
JOIN pg_catalog.pg_class ON pg_class.oid = attrelid
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = %s AND relname = %s AND attnum > 0 AND NOT attisdropped"""
_TABLE_IS_THERE = f"SELECT FROM ({_COLUMN_TYPES}) AS columns WHERE attname = 'set_name'"
APPLIED_TABLE, _DIRTY = "schema_migrations", "schema_migrations_dirty"

_CREATE = sql.SQL("""
CREATE TABLE IF NOT EXISTS {table} (
    set_name    text        COLLATE "C" NOT NULL,
    version     bigint      NOT NULL,
    name        text        COLLATE "C" NOT NULL,
    checksum    text        COLLATE "C" NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by  text        NOT NULL DEFAULT current_user,
    duration_ms bigint      NOT NULL,
    PRIMARY KEY (set_name, version)
)""")

_CREATE_DIRTY = sql.SQL("""
CREATE TABLE IF NOT EXISTS {dirty} (
    set_name   text        COLLATE "C" NOT NULL,
    version    bigint      NOT NULL,
    name       text        COLLATE "C" NOT NULL,
    direction  text        COLLATE "C" NOT NULL,
    checksum   text        COLLATE "C" NOT NULL,
    done       integer     NOT NULL DEFAULT 0,
    line       integer     NOT NULL,
    error      text,
    begun_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    begun_by   text        NOT NULL DEFAULT current_user,
    invalid_before bigint[] NOT NULL DEFAULT '{{}}',
    PRIMARY KEY (set_name)
)""")

# For the tables of earlier releases. The version's type changes only for a version that needs it: sessions of running
# services may have prepared a query for the old type.
_WIDEN = sql.SQL("ALTER TABLE {table} ALTER COLUMN version TYPE bigint")
_WIDEN_DIRTY = sql.SQL("ALTER TABLE {dirty} ALTER COLUMN version TYPE bigint")
_ADD_INVALID_BEFORE = sql.SQL("ALTER TABLE {dirty} ADD COLUMN invalid_before bigint[] NOT NULL DEFAULT '{{}}'")
_MAX_INTEGER = 2**31 - 1

_ALL = sql.SQL("""
SELECT set_name, version, name, checksum, applied_at, applied_by, duration_ms
FROM {table} ORDER BY applied_at, set_name, version""")

_VERSIONS = sql.SQL("SELECT set_name, max(version)::bigint FROM {table} GROUP BY set_name ORDER BY set_name")

_HOLD = sql.SQL("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")

_HAS = sql.SQL("SELECT FROM {table} WHERE set_name = %(set_name)s AND version = %(version)s")

_INSERT = sql.SQL("""
INSERT INTO {table} (set_name, version, name, checksum, duration_ms)
VALUES (%(set_name)s, %(version)s, %(name)s, %(checksum)s, %(duration_ms)s)""")

_DELETE = sql.SQL("DELETE FROM {table} WHERE set_name = %(set_name)s AND version = %(version)s")

_RESTAMP = sql.SQL("""
INSERT INTO {table} AS applied (set_name, version, name, checksum, duration_ms)
VALUES (%(set_name)s, %(version)s, %(name)s, %(checksum)s, 0)
ON CONFLICT (set_name, version) DO UPDATE SET name = excluded.name, checksum = excluded.checksum
WHERE (applied.name, applied.checksum) <> (excluded.name, excluded.checksum)""")

_DELETE_ABOVE = sql.SQL("DELETE FROM {table} WHERE set_name = %(set_name)s AND version > %(version)s")

_ALL_DIRTY = sql.SQL("""
SELECT set_name, version, name, direction, checksum, done, line, error, begun_at, begun_by,
    COALESCE(to_jsonb(dirty) -> 'invalid_before', '[]') AS invalid_before
FROM {dirty} AS dirty ORDER BY set_name""")

_MARK = sql.SQL("""
INSERT INTO {dirty} AS dirty (set_name, version, name, direction, checksum, done, line, error, invalid_before)
VALUES (
    %(set_name)s, %(version)s, %(name)s, %(direction)s, %(checksum)s, %(done)s, %(line)s, %(error)s, %(invalid_before)s
)
ON CONFLICT (set_name) DO UPDATE SET
    checksum = excluded.checksum, done = excluded.done, line = excluded.line, error = excluded.error,
    invalid_before = excluded.invalid_before""")

_NOTE_ERROR = sql.SQL("UPDATE {dirty} SET error = %(error)s WHERE set_name = %(set_name)s")

_CLEAN = sql.SQL("DELETE FROM {dirty} WHERE set_name = %(set_name)s")


class Applied(NamedTuple):
    """A version that the database has: the checksum of the file at that time, who applied it, and how long it took."""

    set_name: str
    version: int
    name: str
    checksum: str
    applied_at: datetime
    applied_by: str
    duration_ms: int


class Dirty(NamedTuple):
    """A file that was begun outside a transaction and is not complete: after `done` statements it reached the one at
    `line`. `error` is None if its process was killed or is still running. `invalid_before`: the OIDs of invalid indexes
    that the statement did not leave, see PartialState."""

    set_name: str
    version: int
    name: str
    direction: Direction
    checksum: str
    done: int
    line: int
    error: str | None
    begun_at: datetime
    begun_by: str
    invalid_before: list[int]


class Store:
    """Reads and writes the record of one schema. It opens no transaction and takes what psycopg raises as it is."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._table = sql.Identifier(schema, APPLIED_TABLE)
        self._dirty = sql.Identifier(schema, _DIRTY)

    def prepare(self, connection: Connection[Any], *, max_version: int) -> None:
        """Create the schema and the tables if they do not exist, and change those of earlier releases so that they can
        store a version. Raises ForeignRecord."""
        # CREATE SCHEMA IF NOT EXISTS asks for the right to create one also where it is there.
        if connection.execute(_SCHEMA_IS_THERE, [self._schema]).fetchone() is None:
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self._schema)))
        applied, dirty = (self.columns(connection, table) for table in (APPLIED_TABLE, _DIRTY))
        self._check_owner(connection)
        if not applied:
            connection.execute(self._on_table(_CREATE))
        elif applied["version"] == "integer" and max_version > _MAX_INTEGER:
            connection.execute(self._on_table(_WIDEN))
        if not dirty:
            connection.execute(self._on_table(_CREATE_DIRTY))
            return
        if dirty["version"] == "integer" and max_version > _MAX_INTEGER:
            connection.execute(self._on_table(_WIDEN_DIRTY))
        if "invalid_before" not in dirty:
            connection.execute(self._on_table(_ADD_INVALID_BEFORE))

    def applied(self, connection: Connection[Any]) -> tuple[Applied, ...]:
        """What has been applied, the oldest first, or nothing if the table does not exist. Raises ForeignRecord."""
        self._check_owner(connection)
        if not self._is_there(connection):
            return ()
        with connection.cursor(row_factory=class_row(Applied)) as cursor:
            return tuple(cursor.execute(self._on_table(_ALL)).fetchall())

    def hold(self, connection: Connection[Any]) -> None:
        """Keep everyone else from changing the record until this transaction ends. Readers go on."""
        connection.execute(self._on_table(_HOLD))

    def has(self, connection: Connection[Any], migration: Migration) -> bool:
        """Whether this version is applied."""
        return connection.execute(self._on_table(_HAS), _key(migration)).fetchone() is not None

    def record(self, connection: Connection[Any], migration: Migration, *, duration_ms: int) -> None:
        """Note that the version is applied."""
        values = {"name": migration.name, "checksum": migration.checksum, "duration_ms": duration_ms}
        connection.execute(self._on_table(_INSERT), _key(migration) | values)

    def forget(self, connection: Connection[Any], migration: Migration) -> None:
        """Note that the version is taken back."""
        connection.execute(self._on_table(_DELETE), _key(migration))

    def restamp(self, connection: Connection[Any], migrations: Iterable[Migration], *, set_name: str, to: int) -> None:
        """Note that these versions of a set are applied, as their files are now, and none above `to`."""
        connection.execute(self._on_table(_DELETE_ABOVE), {"set_name": set_name, "version": to})
        for migration in migrations:
            values = {"name": migration.name, "checksum": migration.checksum}
            connection.execute(self._on_table(_RESTAMP), _key(migration) | values)

    def dirty(self, connection: Connection[Any], set_name: str | None = None) -> tuple[Dirty, ...]:
        """Returns the dirty sets, or one set if it is dirty."""
        if not self._is_there(connection, _DIRTY):
            return ()
        with connection.cursor(row_factory=class_row(Dirty)) as cursor:
            rows = cursor.execute(self._on_table(_ALL_DIRTY)).fetchall()
        return tuple(row for row in rows if set_name in {None, row.set_name})

    def mark(self, connection: Connection[Any], migration: Migration, **where: str | int | list[int] | None) -> None:
        """Record how far a file has come: direction, checksum, done, line, error and invalid_before."""
        connection.execute(self._on_table(_MARK), _key(migration) | {"name": migration.name} | where)

    def note_error(self, connection: Connection[Any], set_name: str, error: str) -> None:
        """Note why it stopped."""
        connection.execute(self._on_table(_NOTE_ERROR), {"set_name": set_name, "error": error})

    def clean(self, connection: Connection[Any], set_name: str) -> None:
        """Note that the set is not dirty."""
        connection.execute(self._on_table(_CLEAN), {"set_name": set_name})

    def versions(self, connection: Connection[Any]) -> dict[str, int]:
        """The last version of each set, or nothing if vsyncd's table does not exist."""
        if not self._is_there(connection):
            return {}
        with connection.cursor(row_factory=tuple_row) as cursor:
            return dict(cursor.execute(self._on_table(_VERSIONS)).fetchall())

    async def fetch_versions(self, connection: AsyncConnection[Any]) -> dict[str, int]:
        """The same over an asynchronous connection."""
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(_TABLE_IS_THERE, [self._schema, APPLIED_TABLE])
            if await cursor.fetchone() is None:
                return {}
            await cursor.execute(self._on_table(_VERSIONS))
            return dict(await cursor.fetchall())

    def _is_there(self, connection: Connection[Any], table: str = APPLIED_TABLE) -> bool:
        return connection.execute(_TABLE_IS_THERE, [self._schema, table]).fetchone() is not None

    def columns(self, connection: Connection[Any], table: str) -> dict[str, str]:
        """The types of a table's columns by name, or nothing if it does not exist."""
        with connection.cursor(row_factory=tuple_row) as cursor:
            return dict(cursor.execute(_COLUMN_TYPES, [self._schema, table]).fetchall())

    def _check_owner(self, connection: Connection[Any]) -> None:
        """Raises ForeignRecord if the table belongs to another migration tool."""
        tool = tool_of(self.columns(connection, APPLIED_TABLE))
        if tool is not None:
            raise ForeignRecord(f"{self._schema}.{APPLIED_TABLE} is the record of {tool.value}: {tool.advice}")

    def _on_table(self, query: sql.SQL) -> sql.Composed:
        return query.format(table=self._table, dirty=self._dirty)


def _key(migration: Migration) -> dict[str, str | int]:
    return {"set_name": migration.set_name, "version": migration.version}
