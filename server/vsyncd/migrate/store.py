"""What has been applied: the table schema_migrations, in vsyncd's own schema."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection, Connection, sql
from psycopg.rows import class_row, tuple_row

from vsyncd.migrate.files import Migration

_SCHEMA_IS_THERE = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s"
_TABLE_IS_THERE = "SELECT FROM pg_catalog.pg_tables WHERE schemaname = %s AND tablename = 'schema_migrations'"

_CREATE = sql.SQL("""
CREATE TABLE IF NOT EXISTS {table} (
    set_name    text        COLLATE "C" NOT NULL,
    version     integer     NOT NULL,
    name        text        COLLATE "C" NOT NULL,
    checksum    text        COLLATE "C" NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by  text        NOT NULL DEFAULT current_user,
    duration_ms bigint      NOT NULL,
    CONSTRAINT schema_migrations_pkey PRIMARY KEY (set_name, version)
)""")

_ALL = sql.SQL("""
SELECT set_name, version, name, checksum, applied_at, applied_by, duration_ms
FROM {table} ORDER BY applied_at, set_name, version""")

_VERSIONS = sql.SQL("SELECT set_name, max(version) FROM {table} GROUP BY set_name ORDER BY set_name")

_HOLD = sql.SQL("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")

_HAS = sql.SQL("SELECT FROM {table} WHERE set_name = %(set_name)s AND version = %(version)s")

_INSERT = sql.SQL("""
INSERT INTO {table} (set_name, version, name, checksum, duration_ms)
VALUES (%(set_name)s, %(version)s, %(name)s, %(checksum)s, %(duration_ms)s)""")

_DELETE = sql.SQL("DELETE FROM {table} WHERE set_name = %(set_name)s AND version = %(version)s")


class Applied(NamedTuple):
    """A version that the database has: the checksum of the file at that time, who applied it, and how long it took."""

    set_name: str
    version: int
    name: str
    checksum: str
    applied_at: datetime
    applied_by: str
    duration_ms: int


class Store:
    """Reads and writes the record of one schema. It opens no transaction and takes what psycopg raises as it is."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._table = sql.Identifier(schema, "schema_migrations")

    def prepare(self, connection: Connection[Any]) -> None:
        """Make the schema and the table where they are missing."""
        # CREATE SCHEMA IF NOT EXISTS asks for the right to create one also where it is there.
        if connection.execute(_SCHEMA_IS_THERE, [self._schema]).fetchone() is None:
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self._schema)))
        if not self._is_there(connection):
            connection.execute(self._on_table(_CREATE))

    def applied(self, connection: Connection[Any]) -> tuple[Applied, ...]:
        """What has been applied, the oldest first; nothing when there is no table yet."""
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

    def versions(self, connection: Connection[Any]) -> dict[str, int]:
        """The last version of each set; nothing when there is no table yet."""
        if not self._is_there(connection):
            return {}
        with connection.cursor(row_factory=tuple_row) as cursor:
            return dict(cursor.execute(self._on_table(_VERSIONS)).fetchall())

    async def fetch_versions(self, connection: AsyncConnection[Any]) -> dict[str, int]:
        """The same over an asynchronous connection."""
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(_TABLE_IS_THERE, [self._schema])
            if await cursor.fetchone() is None:
                return {}
            await cursor.execute(self._on_table(_VERSIONS))
            return dict(await cursor.fetchall())

    def _is_there(self, connection: Connection[Any]) -> bool:
        return connection.execute(_TABLE_IS_THERE, [self._schema]).fetchone() is not None

    def _on_table(self, query: sql.SQL) -> sql.Composed:
        return query.format(table=self._table)


def _key(migration: Migration) -> dict[str, str | int]:
    return {"set_name": migration.set_name, "version": migration.version}
