"""Adopts the version of golang-migrate's table."""

import psycopg
from psycopg import sql

from vsyncd.migrate.errors import NothingToAdopt
from vsyncd.migrate.plan import check_version
from vsyncd.migrate.runner import MigrationTarget, grant_to_service, locked, single_set
from vsyncd.migrate.store import APPLIED_TABLE, FLYWAY_TABLE, MigrationStore, Tool, tool_of

# The new name of golang-migrate's table.
KEPT_TABLE = f"{APPLIED_TABLE}_golang_migrate"

_LOCK = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE")
_READ = sql.SQL("SELECT version, dirty FROM {}")
_RENAME = sql.SQL("ALTER TABLE {} RENAME TO {}")
# Constraints and indexes are renamed too, because vsyncd's table needs their names.
_CONSTRAINTS = "SELECT conname FROM pg_catalog.pg_constraint WHERE conrelid = %s::regclass AND contype IN ('p', 'u')"
_RENAME_CONSTRAINT = sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}")
_TABLE_EXISTS = "SELECT to_regclass(%s) IS NOT NULL"


def adopt_version(target: MigrationTarget) -> int:
    """Record golang-migrate's version for one set (the target's, or else DEFAULT_SET). Returns the version.

    Executes no file. golang-migrate's table in the target's schema is renamed to KEPT_TABLE. Raises NothingToAdopt,
    also for a dirty version, and NoSuchVersion; nothing is changed then.
    """
    target, set_name = single_set(target)
    migrations = target.files()
    with locked(target) as (connection, store):
        _check_tool(connection, store, target.schema)
        with connection.transaction():
            version = _take_over(connection, target.schema)
            check_version(migrations, version)
            store.prepare(connection)
            store.set_version(connection, migrations, set_name=set_name, version=version)
        grant_to_service(connection, target)
    return version


def _check_tool(connection: psycopg.Connection, store: MigrationStore, schema: str) -> None:
    columns = store.columns(connection)
    tool = tool_of(columns)
    if tool is Tool.GOLANG_MIGRATE:
        return
    table = f"{schema}.{APPLIED_TABLE}"
    if tool is not None:
        raise NothingToAdopt(f"{table} is the table of {tool.value}: {tool.advice}")
    if columns:
        raise NothingToAdopt(f"{table} is already vsyncd's own table")
    flyway = sql.Identifier(schema, FLYWAY_TABLE).as_string()
    if connection.execute(_TABLE_EXISTS, [flyway]).fetchone() == (True,):
        raise NothingToAdopt(f"{schema}.{FLYWAY_TABLE} is the table of {Tool.FLYWAY.value}: {Tool.FLYWAY.advice}")
    raise NothingToAdopt(f"the table {table} of golang-migrate does not exist")


def _take_over(connection: psycopg.Connection, schema: str) -> int:
    """Rename golang-migrate's table. Returns its version, or 0 if nothing is applied."""
    table, kept = sql.Identifier(schema, APPLIED_TABLE), sql.Identifier(schema, KEPT_TABLE)
    connection.execute("SET LOCAL lock_timeout = '10s'")
    connection.execute(_LOCK.format(table))
    version, dirty = connection.execute(_READ.format(table)).fetchone() or (-1, False)
    if dirty:
        raise NothingToAdopt(
            f"golang-migrate's version {version} is dirty: its up file, or the down file of the next version, failed."
            " Repair the database by hand, record its version with golang-migrate's `force V`, and adopt it again"
        )
    constraints = connection.execute(_CONSTRAINTS, [table.as_string()]).fetchall()
    connection.execute(_RENAME.format(table, sql.Identifier(KEPT_TABLE)))
    for number, (name,) in enumerate(constraints):
        new_name = sql.Identifier(f"{KEPT_TABLE}_key{number or ''}")
        connection.execute(_RENAME_CONSTRAINT.format(kept, sql.Identifier(name), new_name))
    return max(int(version), 0)
