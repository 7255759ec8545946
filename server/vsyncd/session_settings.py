"""Sets the session settings that results depend on for every connection.

Roles, databases, libpq's environment variables and service files can change each of them. They are set by one statement
after connecting, because PgBouncer rejects startup options. This module is independent of the service: vsyncd.migrate,
vsyncd.backup and vsyncd.embedded use it too.
"""

import os
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

ENCODING: Final = "UTF8"

# PostgreSQL's defaults. Not listed: settings that only change speed or storage (planner settings, work_mem,
# default_tablespace), and `role`, which an operator may need.
SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "client_encoding": ENCODING,
        "DateStyle": "ISO, MDY",
        "IntervalStyle": "postgres",
        "TimeZone": "UTC",
        "timezone_abbreviations": "Default",
        "lc_monetary": "C",
        "lc_numeric": "C",
        "lc_time": "C",
        "bytea_output": "hex",
        "extra_float_digits": "1",
        "xmloption": "content",
        "search_path": '"$user", public',
        "array_nulls": "on",
        "backslash_quote": "safe_encoding",
        "standard_conforming_strings": "on",
        "transform_null_equals": "off",
        "quote_all_identifiers": "off",
        "check_function_bodies": "on",
        "row_security": "on",
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        "exit_on_error": "off",
        # A commit that was not replicated is a warning (Connection.committing).
        "client_min_messages": "notice",
        "lock_timeout": "0",
        "idle_session_timeout": "0",
    }
)
# Ignored by servers that do not have the setting.
_OPTIONAL_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {"transaction_timeout": "0", "restrict_nonsystem_relation_kind": "", "plpgsql.extra_errors": "none"}
)
# Defaults of the parameters that choose a server, so that environment variables cannot.
_ANY_SERVER: Final[Mapping[str, str]] = MappingProxyType({"hostaddr": "", "target_session_attrs": "any"})
# For tasks of any duration.
NO_TIMEOUTS: Final[Mapping[str, str]] = MappingProxyType(
    {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
)

# One message: one transaction and one round trip. The first statements are for the query itself: a standby rejects
# queries in a serializable transaction, and search_path may hide the functions and operators that the query uses.
_SET_UP: Final = sql.SQL("""\
SET LOCAL statement_timeout = 0; SET transaction_isolation = 'read committed'; SET LOCAL search_path = pg_catalog;
SELECT current_setting('server_encoding'), current_setting('session_replication_role'),
       count(set_config(name, value, false))
FROM (VALUES {values},
      -- An acknowledged write must be durable. The operator may choose `local` or a `remote_` value.
      ('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on')),
      -- Triggers must fire. Only a role with the privilege can set this; see _check.
      ('session_replication_role',
       CASE WHEN has_parameter_privilege('session_replication_role', 'SET') THEN 'origin' END),
      -- Not changed if it is in the server's own configuration: that server accepts no writes.
      ('default_transaction_read_only',
       CASE WHEN current_setting('default_transaction_read_only') = 'on' AND EXISTS (
           SELECT FROM pg_settings WHERE name = 'default_transaction_read_only'
           AND source IN ('global', 'database', 'user', 'database user', 'client')) THEN 'off' END)
) AS wanted (name, value)
WHERE value IS NOT NULL AND current_setting(name, true) IS NOT NULL""")


class UnfitDatabase(psycopg.OperationalError):
    """The database is unusable, and waiting does not help. The message is the reason."""


def connect(
    conninfo: str,
    *,
    settings: Mapping[str, str] = MappingProxyType({}),
    any_encoding: bool = False,
    **parameters: Any,  # noqa: ANN401  psycopg's types
) -> psycopg.Connection[tuple[Any, ...]]:
    """Returns a connection in autocommit mode with SETTINGS and `settings`. `parameters` are psycopg's.

    Raises psycopg.Error, which includes UnfitDatabase. `any_encoding` accepts databases that are not UTF8.
    """
    connection = psycopg.connect(conninfo, autocommit=True, **parameters_for(conninfo), **parameters)
    try:
        set_up(connection, settings, any_encoding=any_encoding)
    except BaseException:
        connection.close()
        raise
    return connection


def parameters_for(conninfo: str) -> dict[str, Any]:
    """Returns additional libpq parameters for `conninfo` that override the environment."""
    given = {name for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    where = {} if "service" in given else {name: value for name, value in _ANY_SERVER.items() if name not in given}
    return {"client_encoding": ENCODING, **where}


def set_up(
    connection: psycopg.Connection[Any],
    settings: Mapping[str, str] = MappingProxyType({}),
    *,
    any_encoding: bool = False,
    before: bytes = b"",
) -> None:
    """Sets SETTINGS and `settings` in one round trip, after the statements `before`. Raises psycopg.Error."""
    cursor = connection.cursor(row_factory=psycopg.rows.tuple_row)
    cursor.execute(before + set_up_statement(**settings))
    while cursor.description is None:
        cursor.nextset()
    _check(cursor.fetchone(), any_encoding=any_encoding)


async def set_up_async(
    connection: psycopg.AsyncConnection[Any], settings: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Works like `set_up` for an asynchronous connection. The database must be UTF8."""
    cursor = connection.cursor(row_factory=psycopg.rows.tuple_row)
    await cursor.execute(set_up_statement(**settings))
    while cursor.description is None:
        cursor.nextset()
    _check(await cursor.fetchone(), any_encoding=False)


@cache
def set_up_statement(**settings: str) -> bytes:
    """Returns the statement that sets SETTINGS and `settings`."""
    wanted = {**SETTINGS, **_OPTIONAL_SETTINGS, **settings}
    rows = (sql.SQL("({}, {})").format(name, value) for name, value in wanted.items())
    return _SET_UP.format(values=sql.SQL(", ").join(rows)).as_bytes()


def for_programs(conninfo: str, **settings: str) -> tuple[str, str]:
    """Returns a connection string without options, and PGOPTIONS, for PostgreSQL's programs.

    Their sessions get SETTINGS and `settings`, after the options of the connection string or else of PGOPTIONS.
    """
    wanted = {**SETTINGS, "default_transaction_read_only": "off", **settings}
    parameters = {**conninfo_to_dict(conninfo), **parameters_for(conninfo)}
    given = str(parameters.pop("options", None) or os.environ.get("PGOPTIONS", ""))
    escaped = {name: value.replace("\\", "\\\\").replace(" ", "\\ ") for name, value in wanted.items()}
    ours = (f"-c {name}={value}" for name, value in escaped.items() if name != "client_encoding")
    return make_conninfo("", **parameters), " ".join([given, *ours]).strip()


def _check(row: tuple[Any, ...] | None, *, any_encoding: bool) -> None:
    encoding, replication_role, _ = row or ("", "", 0)
    if encoding != ENCODING and not any_encoding:
        raise UnfitDatabase(f"the encoding of the database is {encoding}, not {ENCODING}")
    if replication_role != "origin":
        raise UnfitDatabase(f"session_replication_role is {replication_role}, which disables triggers")
