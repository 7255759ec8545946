"""The tables of the engine in vsyncd's schema.

schema_migrations contains the applied versions. schema_migrations_dirty contains the files that run outside a
transaction and are incomplete. Also recognises the tables of other migration tools by their columns.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from psycopg import AsyncConnection, Connection, sql
from psycopg.rows import class_row, tuple_row

from vsyncd.migrate.errors import MigrateError
from vsyncd.migrate.files import Migration
from vsyncd.migrate.script import Direction

T = TypeVar("T")

_SCHEMA_EXISTS = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s"
_COLUMNS = """
SELECT attname FROM pg_catalog.pg_attribute
JOIN pg_catalog.pg_class ON pg_class.oid = attrelid
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = %s AND relname = %s AND attnum > 0 AND NOT attisdropped"""
# Other tools also name their table schema_migrations; only vsyncd's has this column.
_TABLE_EXISTS = f"{_COLUMNS} AND attname = 'set_name'"
APPLIED_TABLE, _DIRTY_TABLE = "schema_migrations", "schema_migrations_dirty"
# Flyway's table has another name than vsyncd's.
FLYWAY_TABLE = "flyway_schema_history"

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

_SELECT_APPLIED = sql.SQL("""
SELECT set_name, version, name, checksum, applied_at, applied_by, duration_ms
FROM {table} ORDER BY applied_at, set_name, version""")

_SELECT_VERSIONS = sql.SQL("SELECT set_name, max(version)::bigint FROM {table} GROUP BY set_name ORDER BY set_name")

_LOCK = sql.SQL("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")

_IS_APPLIED = sql.SQL("SELECT FROM {table} WHERE set_name = %(set_name)s AND version = %(version)s")

_INSERT = sql.SQL("""
INSERT INTO {table} (set_name, version, name, checksum, duration_ms)
VALUES (%(set_name)s, %(version)s, %(name)s, %(checksum)s, %(duration_ms)s)""")

_DELETE = sql.SQL("DELETE FROM {table} WHERE set_name = %(set_name)s AND version = %(version)s")

_UPSERT = sql.SQL("""
INSERT INTO {table} AS applied (set_name, version, name, checksum, duration_ms)
VALUES (%(set_name)s, %(version)s, %(name)s, %(checksum)s, 0)
ON CONFLICT (set_name, version) DO UPDATE SET name = excluded.name, checksum = excluded.checksum
WHERE (applied.name, applied.checksum) <> (excluded.name, excluded.checksum)""")

_DELETE_ABOVE = sql.SQL("DELETE FROM {table} WHERE set_name = %(set_name)s AND version > %(version)s")

_SELECT_DIRTY = sql.SQL("""
SELECT set_name, version, name, direction, checksum, done, line, error, begun_at, begun_by, invalid_before
FROM {dirty} ORDER BY set_name""")

_UPSERT_DIRTY = sql.SQL("""
INSERT INTO {dirty} AS dirty (set_name, version, name, direction, checksum, done, line, error, invalid_before)
VALUES (
    %(set_name)s, %(version)s, %(name)s, %(direction)s, %(checksum)s, %(done)s, %(line)s, %(error)s, %(invalid_before)s
)
ON CONFLICT (set_name) DO UPDATE SET
    checksum = excluded.checksum, done = excluded.done, line = excluded.line, error = excluded.error,
    invalid_before = excluded.invalid_before""")

_UPDATE_ERROR = sql.SQL("UPDATE {dirty} SET error = %(error)s WHERE set_name = %(set_name)s")

_DELETE_DIRTY = sql.SQL("DELETE FROM {dirty} WHERE set_name = %(set_name)s")


class Tool(Enum):
    GOLANG_MIGRATE = "golang-migrate"
    DBMATE = "dbmate or Rails"
    FLYWAY = "Flyway"
    UNKNOWN = "another tool"

    @property
    def advice(self) -> str:
        if self is Tool.GOLANG_MIGRATE:
            return "`vsyncd migrate adopt` adopts its version without executing files"
        rename = "" if self is Tool.FLYWAY else "rename that table, then "
        return f"vsyncd cannot adopt it: {rename}record the database's version with `vsyncd migrate force V`"


def tool_of(columns: Collection[str]) -> Tool | None:
    """Returns the tool whose schema_migrations has these columns, or None for vsyncd's or no table."""
    if not columns or "set_name" in columns:
        return None
    if set(columns) == {"version", "dirty"}:
        return Tool.GOLANG_MIGRATE
    return Tool.DBMATE if set(columns) == {"version"} else Tool.UNKNOWN


class Applied(NamedTuple):
    """An applied version. `checksum` is the one of its up file at that time."""

    set_name: str
    version: int
    name: str
    checksum: str
    applied_at: datetime
    applied_by: str
    duration_ms: int


class Dirty(NamedTuple):
    """A file that was started outside a transaction and is incomplete.

    `done` statements were executed; the next one starts at `line`. `checksum` is the one of the executed statements.
    `error` is None if the process was killed or is still running. `invalid_before`: the oids of the invalid indexes
    that existed before the statement, see PartialState.
    """

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


class MigrationStore:
    """Reads and writes the tables of one schema. Raises psycopg's errors."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._table = sql.Identifier(schema, APPLIED_TABLE)
        self._dirty = sql.Identifier(schema, _DIRTY_TABLE)

    def prepare(self, connection: Connection[Any]) -> None:
        """Create the schema and the tables in one transaction if they do not exist. Raises MigrateError."""
        with connection.transaction():
            # CREATE SCHEMA IF NOT EXISTS requires the privilege even if the schema exists.
            if connection.execute(_SCHEMA_EXISTS, [self._schema]).fetchone() is None:
                connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self._schema)))
            self._check_tool(connection)
            for table, create in ((APPLIED_TABLE, _CREATE), (_DIRTY_TABLE, _CREATE_DIRTY)):
                if not self._exists(connection, table):
                    connection.execute(self._format(create))

    def applied(self, connection: Connection[Any]) -> tuple[Applied, ...]:
        """Returns the applied versions, oldest first. Raises MigrateError."""
        self._check_tool(connection)
        return self._fetch(connection, APPLIED_TABLE, _SELECT_APPLIED, Applied)

    def lock_table(self, connection: Connection[Any]) -> None:
        """Prevent changes by other sessions until the transaction ends. Reads are not blocked."""
        connection.execute(self._format(_LOCK))

    def is_applied(self, connection: Connection[Any], migration: Migration) -> bool:
        return connection.execute(self._format(_IS_APPLIED), _key(migration)).fetchone() is not None

    def insert(self, connection: Connection[Any], migration: Migration, *, duration_ms: int) -> None:
        values = {"name": migration.name, "checksum": migration.checksum, "duration_ms": duration_ms}
        connection.execute(self._format(_INSERT), _key(migration) | values)

    def delete(self, connection: Connection[Any], migration: Migration) -> None:
        connection.execute(self._format(_DELETE), _key(migration))

    def set_version(
        self, connection: Connection[Any], migrations: Iterable[Migration], *, set_name: str, version: int
    ) -> None:
        """Record that a set has this version: its files up to it are applied with their current checksums."""
        connection.execute(self._format(_DELETE_ABOVE), {"set_name": set_name, "version": version})
        for migration in migrations:
            if migration.version <= version:
                values = {"name": migration.name, "checksum": migration.checksum}
                connection.execute(self._format(_UPSERT), _key(migration) | values)

    def dirty(self, connection: Connection[Any]) -> tuple[Dirty, ...]:
        return self._fetch(connection, _DIRTY_TABLE, _SELECT_DIRTY, Dirty)

    def record_progress(
        self, connection: Connection[Any], migration: Migration, **progress: str | int | list[int] | None
    ) -> None:
        """Record the progress of a file: direction, checksum, done, line, error and invalid_before."""
        connection.execute(self._format(_UPSERT_DIRTY), _key(migration) | {"name": migration.name} | progress)

    def record_error(self, connection: Connection[Any], set_name: str, error: str) -> None:
        connection.execute(self._format(_UPDATE_ERROR), {"set_name": set_name, "error": error})

    def clear_dirty(self, connection: Connection[Any], set_name: str) -> None:
        connection.execute(self._format(_DELETE_DIRTY), {"set_name": set_name})

    def versions(self, connection: Connection[Any]) -> dict[str, int]:
        """Returns the last applied version of each set; empty if the table does not exist."""
        if not self._exists(connection, APPLIED_TABLE):
            return {}
        with connection.cursor(row_factory=tuple_row) as cursor:
            return dict(cursor.execute(self._format(_SELECT_VERSIONS)).fetchall())

    async def fetch_versions(self, connection: AsyncConnection[Any]) -> dict[str, int]:
        """Returns the same through an asynchronous connection."""
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(_TABLE_EXISTS, [self._schema, APPLIED_TABLE])
            if await cursor.fetchone() is None:
                return {}
            await cursor.execute(self._format(_SELECT_VERSIONS))
            return dict(await cursor.fetchall())

    def columns(self, connection: Connection[Any]) -> list[str]:
        """Returns the columns of schema_migrations; empty if it does not exist."""
        with connection.cursor(row_factory=tuple_row) as cursor:
            return [name for (name,) in cursor.execute(_COLUMNS, [self._schema, APPLIED_TABLE])]

    def _fetch(self, connection: Connection[Any], table: str, query: sql.SQL, kind: type[T]) -> tuple[T, ...]:
        if not self._exists(connection, table):
            return ()
        with connection.cursor(row_factory=class_row(kind)) as cursor:
            return tuple(cursor.execute(self._format(query)).fetchall())

    def _exists(self, connection: Connection[Any], table: str) -> bool:
        return connection.execute(_TABLE_EXISTS, [self._schema, table]).fetchone() is not None

    def _check_tool(self, connection: Connection[Any]) -> None:
        """Raises MigrateError if the table belongs to another migration tool."""
        if (tool := tool_of(self.columns(connection))) is not None:
            raise MigrateError(f"{self._schema}.{APPLIED_TABLE} is the table of {tool.value}: {tool.advice}")

    def _format(self, query: sql.SQL) -> sql.Composed:
        return query.format(table=self._table, dirty=self._dirty)


def _key(migration: Migration) -> dict[str, str | int]:
    return {"set_name": migration.set_name, "version": migration.version}
