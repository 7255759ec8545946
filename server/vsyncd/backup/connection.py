"""Connections for backups, and facts about the server and the database that they lead to."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from vsyncd.backup.errors import DatabaseFailed
from vsyncd.backup.manifest import Collation, Origin
from vsyncd.migrate.connections import in_one_line
from vsyncd.session_settings import NO_TIMEOUTS, connect

Connection = psycopg.Connection[tuple[Any, ...]]

# Schema owners are queried separately: pg_shdepend lists nothing that the bootstrap superuser owns.
_ROLES: Final = """
    SELECT r.rolname FROM pg_catalog.pg_shdepend AS d JOIN pg_catalog.pg_roles AS r ON r.oid = d.refobjid
    WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass
      AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    UNION
    SELECT r.rolname FROM pg_catalog.pg_namespace AS n JOIN pg_catalog.pg_roles AS r ON r.oid = n.nspowner
    WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND r.rolname !~ '^pg_'
    ORDER BY 1"""

# to_jsonb: PostgreSQL 17 renamed daticulocale to datlocale, and daticurules is new in 16.
_DATABASE: Final = """
    SELECT pg_encoding_to_char(encoding),
           CASE datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
           datcollate, datctype, coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
           to_jsonb(d) ->> 'daticurules', pg_get_userbyid(datdba)
    FROM pg_catalog.pg_database AS d WHERE datname = current_database()"""

# initdb's objects have ids below 16384 (FirstNormalObjectId). After pg_upgrade plpgsql and its objects have higher ids;
# objects of other extensions are found through the extension.
_HAS_OBJECTS: Final = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d, pg_catalog.pg_namespace AS n
        WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.oid AND d.deptype = 'n'
          AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
        UNION ALL
        SELECT FROM pg_catalog.pg_namespace
        WHERE nspname NOT IN ('information_schema', 'public') AND nspname !~ '^pg_'
        UNION ALL
        SELECT FROM pg_catalog.pg_largeobject_metadata
        UNION ALL
        SELECT FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'
        UNION ALL
        SELECT FROM pg_catalog.pg_subscription
        WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        UNION ALL
        SELECT FROM (
            SELECT tableoid, oid FROM pg_catalog.pg_publication
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_event_trigger
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_foreign_data_wrapper
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_foreign_server
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_language
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_cast
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_transform
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_am) AS outside_schemas
        WHERE outside_schemas.oid >= 16384
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                          WHERE d.classid = outside_schemas.tableoid AND d.objid = outside_schemas.oid
                            AND d.deptype = 'e'))"""


@contextlib.contextmanager
def connected(conninfo: str) -> Iterator[Connection]:
    """A connection in autocommit mode without timeouts. Raises DatabaseFailed instead of psycopg's errors."""
    try:
        # The database may be `postgres` or `template1`, which have any encoding.
        with contextlib.closing(
            connect(conninfo, settings=NO_TIMEOUTS, any_encoding=True, prepare_threshold=None)
        ) as connection:
            yield connection
    except psycopg.Error as error:
        raise DatabaseFailed(in_one_line(error)) from error


def fetch_one(connection: Connection, query: str | sql.Composed) -> tuple[Any, ...]:
    statement = query.encode() if isinstance(query, str) else query
    row = connection.cursor(row_factory=tuple_row).execute(statement).fetchone()
    if row is None:
        raise DatabaseFailed("a catalog query returned no row")
    return row


def require_direct(connection: Connection) -> None:
    """Raises DatabaseFailed behind a pooler, which reports a process id that is not the server's.

    In transaction mode, session settings and locks, pg_dump's too, would remain in another client's session.
    """
    if fetch_one(connection, "SELECT pg_backend_pid()")[0] != connection.info.backend_pid:
        raise DatabaseFailed(
            "the connection goes through a pooler, which backups cannot use: let BACKUP_URL name the server itself"
        )


def system_identifier_of(connection: Connection) -> str:
    """Returns the identifier that a cluster shares only with its replicas."""
    return str(fetch_one(connection, "SELECT system_identifier FROM pg_catalog.pg_control_system()")[0])


def origin_of(connection: Connection) -> Origin:
    """Describes the database and its server for the manifest."""
    encoding, provider, collate, ctype, locale, rules, owner = fetch_one(connection, _DATABASE)
    return Origin(
        database=connection.info.dbname,
        system_identifier=system_identifier_of(connection),
        owner=owner,
        server_version=fetch_one(connection, "SHOW server_version")[0],
        server_major=connection.info.server_version // 10_000,
        collation=Collation(
            encoding=encoding, provider=provider, collate=collate, ctype=ctype, locale=locale, rules=rules
        ),
        roles=tuple(row[0] for row in connection.execute(_ROLES)),
    )


def is_empty(connection: Connection) -> bool:
    """Whether the database has no user objects, neither in schemas nor outside them (large objects, publications)."""
    return not fetch_one(connection, _HAS_OBJECTS)[0]
