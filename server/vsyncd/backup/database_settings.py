"""What belongs to a database and is in no dump of it: rights on it, its limit of connections, and settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import psycopg
from psycopg import sql

from vsyncd.backup.content_summary import Connection

_RIGHTS: Final = """
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

# Settings that are a list of names, each in its own quotation marks; see variable_is_guc_list_quote in pg_dump.
_LISTS: Final = frozenset({
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
})  # fmt: skip
# What is no reason to give up a restore: it takes another role, or what was set then is nothing that can be set now.
_REFUSED: Final = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.UndefinedObject,
    psycopg.errors.CantChangeRuntimeParam,
)
_ELEMENT: Final = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')


def standing_of(admin: Connection, name: str, *, to: str) -> tuple[sql.Composed, ...]:
    """The statements that give the database `to`, of the same owner, what `name` has."""
    return (*_rights(admin, name, to), *_settings(admin, name, to))


def give(admin: Connection, statements: tuple[sql.Composed, ...]) -> tuple[str, ...]:
    """Execute them, in a transaction of the caller's; those that were refused, for somebody to see to."""
    refused = []
    for statement in statements:
        try:
            with admin.transaction():
                admin.execute(statement)
        except _REFUSED:
            refused.append(statement.as_string(admin))
    return tuple(refused)


def _rights(admin: Connection, name: str, to: str) -> Iterator[sql.Composed]:
    database = sql.Identifier(to)
    for is_default, owner, limit in admin.execute(_DATABASE, [name]).fetchall():
        if limit >= 0:
            yield sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(database, sql.Literal(limit))
        if is_default:
            continue
        yield sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC, {}").format(database, sql.Identifier(owner))
        for grantee, privilege, is_grantable in admin.execute(_RIGHTS, [name]).fetchall():
            yield sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(privilege),
                database,
                sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee),
                sql.SQL(" WITH GRANT OPTION" if is_grantable and grantee is not None else ""),
            )


def _settings(admin: Connection, name: str, to: str) -> Iterator[sql.Composed]:
    for role, setting in admin.execute(_SETTINGS, [name]).fetchall():
        parameter, _, value = setting.partition("=")
        whose = sql.SQL("DATABASE {}").format(sql.Identifier(to))
        if role is not None:
            whose = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), sql.Identifier(to))
        yield sql.SQL("ALTER {} SET {} TO {}").format(
            whose, sql.Identifier(*parameter.split(".")), _value(parameter, value)
        )


def _value(parameter: str, value: str) -> sql.Composable:
    if parameter.lower() not in _LISTS:
        return sql.Literal(value)
    names = [quoted.replace('""', '"') if quoted else plain for quoted, plain in _ELEMENT.findall(value)]
    return sql.SQL(", ").join(map(sql.Literal, names)) if names else sql.Literal("")
