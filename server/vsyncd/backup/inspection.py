"""Connects to a database, and describes its origin and its content.

A migration set may create views content_digest_<name> with one row and one column of type text: a digest of the rows of
its tables that depends neither on their order nor on settings of the session.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import psycopg
from psycopg import sql

from vsyncd.backup.errors import DatabaseFailed
from vsyncd.backup.manifest import CidSet, Collation, ContentSummary, Origin
from vsyncd.migrate.connections import in_one_line
from vsyncd.migrate.store import MigrationStore
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

# The tables whose rows pg_dump dumps: logged tables that belong to no extension.
_TABLES: Final = """
    SELECT n.nspname, c.relname
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                      WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1, 2"""

_DIGESTS: Final = r"""
    SELECT c.relname, substr(c.relname, length('content_digest_') + 1)
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'v' AND n.nspname = %s AND c.relname LIKE 'content\_digest\_%%' ORDER BY 1"""

_CID_SETS: Final = sql.SQL("""
    SELECT ispb, key_type, count(*), bit_xor(('x' || encode(cid, 'hex'))::bit(256))::text
    FROM {} GROUP BY ispb, key_type ORDER BY ispb, key_type""")

# The same with four 64-bit numbers. PostgreSQL 18 casts bytes to numbers, which takes a twelfth of the time.
_CID_SETS_18: Final = sql.SQL("""
    SELECT ispb, key_type, count(*),
           bit_xor(substr(cid, 1, 8)::bigint), bit_xor(substr(cid, 9, 8)::bigint),
           bit_xor(substr(cid, 17, 8)::bigint), bit_xor(substr(cid, 25, 8)::bigint)
    FROM {} GROUP BY ispb, key_type ORDER BY ispb, key_type""")


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
    row = connection.execute(query.encode() if isinstance(query, str) else query).fetchone()
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


def summarize_content(connection: Connection, schema: str) -> ContentSummary:
    """Count everything in one snapshot: the current transaction's, if there is one."""
    with connection.transaction():
        # Each query runs once per table: compiling it does not pay.
        connection.execute("SET LOCAL jit = off")
        names = connection.execute(_TABLES).fetchall()
        cids = (schema, "cids")
        cid_sets = _cid_sets(connection, schema) if cids in names else ()
        tables = {
            ".".join(name): sum(each.count for each in cid_sets) if name == cids else _count(connection, name)
            for name in names
        }
        return ContentSummary(
            schema=schema,
            tables=tables,
            cid_sets=cid_sets,
            migrations=MigrationStore(schema).versions(connection),
            digests=_digests(connection, schema),
        )


@contextlib.contextmanager
def background_summary(connection: Connection, schema: str) -> Iterator[Future[ContentSummary]]:
    """Runs summarize_content in a thread. Nothing else may use the connection while the context lasts.

    If the block raises, the running statement is cancelled.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="backup summary") as threads:
        try:
            yield threads.submit(summarize_content, connection, schema)
        except BaseException:
            with contextlib.suppress(psycopg.Error):  # the connection is lost
                connection.cancel_safe()
            raise


def _count(connection: Connection, name: tuple[str, ...]) -> int:
    query = sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(*name))
    return int(fetch_one(connection, query)[0])


def _digests(connection: Connection, schema: str) -> dict[str, str]:
    views = connection.execute(_DIGESTS, [schema]).fetchall()
    query = sql.SQL("SELECT * FROM {}")
    return {name: fetch_one(connection, query.format(sql.Identifier(schema, view)))[0] for view, name in views}


def _cid_sets(connection: Connection, schema: str) -> tuple[CidSet, ...]:
    as_numbers = connection.info.server_version >= 180_000
    query = (_CID_SETS_18 if as_numbers else _CID_SETS).format(sql.Identifier(schema, "cids"))
    return tuple(
        CidSet(ispb=ispb, key_type=key_type, count=count, vsync=_hex(xor))
        for ispb, key_type, count, *xor in connection.execute(query)
    )


def _hex(xor: list[int] | list[str]) -> str:
    """Returns 256 bits, given as four signed numbers or as one string of bits, in hexadecimal."""
    return "".join(f"{int(part, 2):064x}" if isinstance(part, str) else f"{part % 2**64:016x}" for part in xor)
