"""Properties of a database that its dump does not contain: privileges, connection limit and settings."""

import re
from collections.abc import Iterator
from typing import Final

import psycopg
from psycopg import sql

from vsyncd.backup.inspection import Connection

_PRIVILEGES: Final = """
    SELECT CASE acl.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(acl.grantee) END, acl.privilege_type, acl.is_grantable
    FROM pg_catalog.pg_database AS d, aclexplode(d.datacl) AS acl WHERE d.datname = %s"""
_DATABASE: Final = """
    SELECT datacl IS NULL, pg_get_userbyid(datdba), datconnlimit FROM pg_catalog.pg_database WHERE datname = %s"""
_SETTINGS: Final = """
    SELECT r.rolname, setting
    FROM pg_catalog.pg_database AS d
    JOIN pg_catalog.pg_db_role_setting AS s ON s.setdatabase = d.oid CROSS JOIN unnest(s.setconfig) AS setting
    LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
    WHERE d.datname = %s"""

# Settings scope value is a list of quoted names; see variable_is_guc_list_quote in pg_dump.
_LIST_PARAMETERS: Final = frozenset({
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
})  # fmt: skip
# Errors that do not fail a restore: the statement needs another role, or the setting is not valid any more.
_NOT_PERMITTED: Final = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.UndefinedObject,
    psycopg.errors.CantChangeRuntimeParam,
)
_LIST_ELEMENT: Final = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')


def settings_of(admin: Connection, name: str) -> tuple[sql.Composed, ...]:
    """Returns the statements that recreate a database's properties. Its owner must be the same."""
    return (*_privileges(admin, name), *_settings(admin, name))


def apply_settings(admin: Connection, statements: tuple[sql.Composed, ...]) -> tuple[str, ...]:
    """Execute the statements in the caller's transaction. Returns those that are not permitted."""
    refused = []
    for statement in statements:
        try:
            with admin.transaction():
                admin.execute(statement)
        except _NOT_PERMITTED:
            refused.append(statement.as_string(admin))
    return tuple(refused)


def _privileges(admin: Connection, name: str) -> Iterator[sql.Composed]:
    database = sql.Identifier(name)
    for is_default, owner, limit in admin.execute(_DATABASE, [name]).fetchall():
        if limit >= 0:
            yield sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(database, sql.Literal(limit))
        if is_default:
            continue
        yield sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC, {}").format(database, sql.Identifier(owner))
        for grantee, privilege, is_grantable in admin.execute(_PRIVILEGES, [name]).fetchall():
            yield sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(privilege),
                database,
                sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee),
                sql.SQL(" WITH GRANT OPTION" if is_grantable and grantee is not None else ""),
            )


def _settings(admin: Connection, name: str) -> Iterator[sql.Composed]:
    for role, setting in admin.execute(_SETTINGS, [name]).fetchall():
        parameter, _, value = setting.partition("=")
        scope = sql.SQL("DATABASE {}").format(sql.Identifier(name))
        if role is not None:
            scope = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), sql.Identifier(name))
        yield sql.SQL("ALTER {} SET {} TO {}").format(
            scope, sql.Identifier(*parameter.split(".")), _value(parameter, value)
        )


def _value(parameter: str, value: str) -> sql.Composable:
    if parameter.lower() not in _LIST_PARAMETERS:
        return sql.Literal(value)
    names = [quoted.replace('""', '"') if quoted else plain for quoted, plain in _LIST_ELEMENT.findall(value)]
    return sql.SQL(", ").join(map(sql.Literal, names)) if names else sql.Literal("")
