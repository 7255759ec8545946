"""Takes the version over from golang-migrate's record."""

from __future__ import annotations

import psycopg
from psycopg import sql

from vsyncd.migrate.connections import connected
from vsyncd.migrate.errors import NothingToAdopt
from vsyncd.migrate.foreign import FLYWAY_TABLE, Tool, tool_of
from vsyncd.migrate.lock import migration_lock
from vsyncd.migrate.plan import check_version
from vsyncd.migrate.runner import MigrationTarget, grant_to_service, of_one_set, prepare_store
from vsyncd.migrate.store import APPLIED_TABLE, Store

# golang-migrate's table under its new name.
KEPT_TABLE = f"{APPLIED_TABLE}_golang_migrate"

_LOCK = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE")
_READ = sql.SQL("SELECT version, dirty FROM {}")
_RENAME = sql.SQL("ALTER TABLE {} RENAME TO {}")
# The names of its constraints and indexes are those of the new table.
_CONSTRAINTS = "SELECT conname FROM pg_catalog.pg_constraint WHERE conrelid = %s::regclass AND contype IN ('p', 'u')"
_RENAME_CONSTRAINT = sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}")
_TABLE_EXISTS = "SELECT to_regclass(%s) IS NOT NULL"


def adopt_version(target: MigrationTarget) -> int:
    """Record that one set (that of the target, else vsyncd's own) has golang-migrate's version, and return it.

    Executes no file. golang-migrate's table in the target's schema is renamed to KEPT_TABLE. Raises NothingToAdopt,
    also if the version is dirty, and NoSuchVersion; nothing is changed then.
    """
    target, set_name = of_one_set(target)
    migrations = target.files()
    store = Store(target.schema)
    with (
        connected(target.conninfo) as connection,
        migration_lock(target.conninfo, schema=target.schema, timeout=target.lock_timeout),
    ):
        _check_tool(connection, store, target.schema)
        with connection.transaction():
            version = _take(connection, target.schema)
            check_version(migrations, version)
            prepare_store(connection, target, migrations)
            there = [migration for migration in migrations if migration.version <= version]
            store.restamp(connection, there, set_name=set_name, to=version)
        grant_to_service(connection, target)
    return version


def _check_tool(connection: psycopg.Connection, store: Store, schema: str) -> None:
    columns = store.columns(connection, APPLIED_TABLE)
    tool = tool_of(columns)
    if tool is Tool.GOLANG_MIGRATE:
        return
    table = f"{schema}.{APPLIED_TABLE}"
    if tool is not None:
        raise NothingToAdopt(f"{table} is the record of {tool.value}: {tool.advice}")
    if columns:
        raise NothingToAdopt(f"{table} is vsyncd's own record already")
    flyway = sql.Identifier(schema, FLYWAY_TABLE).as_string()
    if connection.execute(_TABLE_EXISTS, [flyway]).fetchone() == (True,):
        raise NothingToAdopt(f"{schema}.{FLYWAY_TABLE} is the record of {Tool.FLYWAY.value}: {Tool.FLYWAY.advice}")
    raise NothingToAdopt(f"there is no table {table} of golang-migrate")


def _take(connection: psycopg.Connection, schema: str) -> int:
    """Read golang-migrate's version, 0 if nothing is applied, and rename its table."""
    table, kept = sql.Identifier(schema, APPLIED_TABLE), sql.Identifier(schema, KEPT_TABLE)
    connection.execute("SET LOCAL lock_timeout = '10s'")
    connection.execute(_LOCK.format(table))
    version, dirty = connection.execute(_READ.format(table)).fetchone() or (-1, False)
    if dirty:
        raise NothingToAdopt(
            f"golang-migrate's version {version} is dirty: its up file, or the down file of the next version, failed."
            " Repair the database by hand, set the version that it has with golang-migrate's `force V`, and adopt again"
        )
    constraints = connection.execute(_CONSTRAINTS, [table.as_string()]).fetchall()
    connection.execute(_RENAME.format(table, sql.Identifier(KEPT_TABLE)))
    for number, (name,) in enumerate(constraints):
        new_name = sql.Identifier(f"{KEPT_TABLE}_key{number or ''}")
        connection.execute(_RENAME_CONSTRAINT.format(kept, sql.Identifier(name), new_name))
    return max(int(version), 0)
