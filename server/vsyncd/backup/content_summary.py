"""What a database holds, counted in one snapshot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from vsyncd.backup.errors import DatabaseFailed
from vsyncd.backup.manifest import CidSet, Collation, ContentSummary, Origin
from vsyncd.migrate.connections import in_one_line
from vsyncd.migrate.store import Store
from vsyncd.session_settings import NO_TIMEOUTS, connect

Connection = psycopg.Connection[tuple[Any, ...]]

_TICK_SECONDS: Final = 0.25

# What pg_dump dumps the rows of: an extension makes its own tables again, and what is not logged is not kept.
_TABLES: Final = """
    SELECT n.nspname, c.relname
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                      WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1, 2"""

_CID_SETS: Final = sql.SQL("""
    SELECT ispb, key_type, count(*), bit_xor(('x' || encode(cid, 'hex'))::bit(256))::text
    FROM {} GROUP BY ispb, key_type ORDER BY ispb, key_type""")

# The same in four parts: from 18 on bytes are cast to numbers, in a twelfth of the time.
_CID_SETS_IN_PARTS: Final = sql.SQL("""
    SELECT ispb, key_type, count(*),
           bit_xor(substr(cid, 1, 8)::bigint), bit_xor(substr(cid, 9, 8)::bigint),
           bit_xor(substr(cid, 17, 8)::bigint), bit_xor(substr(cid, 25, 8)::bigint)
    FROM {} GROUP BY ispb, key_type ORDER BY ispb, key_type""")
_CASTS_BYTES: Final = 180_000

# The owner of the schemas is asked for apart: what the first superuser owns is not in pg_shdepend.
_ROLES: Final = """
    SELECT r.rolname FROM pg_catalog.pg_shdepend AS d JOIN pg_catalog.pg_roles AS r ON r.oid = d.refobjid
    WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass
      AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    UNION
    SELECT r.rolname FROM pg_catalog.pg_namespace AS n JOIN pg_catalog.pg_roles AS r ON r.oid = n.nspowner
    WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND r.rolname !~ '^pg_'
    ORDER BY 1"""

# The column of the locale had another name before 17, and rules came with 16.
_DATABASE: Final = """
    SELECT pg_encoding_to_char(encoding),
           CASE datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
           datcollate, datctype, coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
           to_jsonb(d) ->> 'daticurules', pg_get_userbyid(datdba)
    FROM pg_catalog.pg_database AS d WHERE datname = current_database()"""

# Ids from 16384 on are not initdb's (FirstNormalObjectId). After pg_upgrade plpgsql and what belongs to it have such
# ones too; what belongs to another extension is found with that.
_ANYTHING: Final = """
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
            UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_am) AS beside
        WHERE beside.oid >= 16384
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                          WHERE d.classid = beside.tableoid AND d.objid = beside.oid AND d.deptype = 'e'))"""


@contextlib.contextmanager
def connected(conninfo: str) -> Iterator[Connection]:
    """A connection in autocommit mode for work that may take long. What psycopg raises comes out as DatabaseFailed."""
    try:
        # The database may be one that the server has for connecting to, of any encoding.
        with contextlib.closing(
            connect(conninfo, settings=NO_TIMEOUTS, any_encoding=True, prepare_threshold=None)
        ) as connection:
            yield connection
    except psycopg.Error as error:
        raise DatabaseFailed(in_one_line(error)) from error


def require_direct(connection: Connection) -> None:
    """Raises DatabaseFailed where a pooler stands between: it tells of a process id that is none of the server's.

    In transaction mode the settings and locks of a session, pg_dump's too, would stay behind in somebody else's.
    """
    if _one(connection, "SELECT pg_backend_pid()")[0] != connection.info.backend_pid:
        raise DatabaseFailed(
            "the connection goes through a pooler, which does not do for backups: let BACKUP_URL name the server itself"
        )


def system_identifier_of(connection: Connection) -> str:
    """What tells a cluster, with its replicas, from every other one."""
    return str(_one(connection, "SELECT system_identifier FROM pg_catalog.pg_control_system()")[0])


def origin_of(connection: Connection) -> Origin:
    """Where a dump of this database comes from."""
    encoding, provider, collate, ctype, locale, rules, owner = _one(connection, _DATABASE)
    return Origin(
        database=connection.info.dbname,
        system_identifier=system_identifier_of(connection),
        owner=owner,
        server_version=_one(connection, "SHOW server_version")[0],
        server_major=connection.info.server_version // 10_000,
        collation=Collation(
            encoding=encoding, provider=provider, collate=collate, ctype=ctype, locale=locale, rules=rules
        ),
        roles=tuple(row[0] for row in connection.execute(_ROLES)),
    )


def summarize_content(connection: Connection, schema: str) -> ContentSummary:
    """Count everything, in one snapshot: that of the transaction, where there is one. Its work is the server's."""
    with connection.transaction():
        # What it would compile runs once a table.
        connection.execute("SET LOCAL jit = off")
        names = connection.execute(_TABLES).fetchall()
        cid_sets = _cid_sets(connection, schema) if (schema, "cids") in names else ()
        tables = {f"{schema}.cids": sum(each.count for each in cid_sets)} if (schema, "cids") in names else {}
        for name in names:
            if name != (schema, "cids"):
                count = sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(*name))
                tables[".".join(name)] = _one(connection, count)[0]
        return ContentSummary(
            schema=schema,
            tables=dict(sorted(tables.items())),
            cid_sets=cid_sets,
            migrations=Store(schema).versions(connection),
        )


class Counting:
    """A census in a thread of its own, for as long as the context lasts: `with Counting(connection, schema) as census`.

    Nobody else may use the connection meanwhile. When the block fails, the statement that runs is cancelled.
    """

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="backup census")

    def __enter__(self) -> Self:
        self._census = self._threads.submit(summarize_content, self._connection, self._schema)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None:
            with contextlib.suppress(psycopg.Error):  # it is gone, and so is the statement
                self._connection.cancel_safe()
        self._threads.shutdown()

    def check(self) -> None:
        """Raises what the census raised, if it has ended so."""
        if self._census.done():
            self._census.result()

    def result(self, check: Callable[[], None]) -> ContentSummary:
        """Wait for it; `check` is called some times a second, and what it raises ends the wait."""
        while not self._census.done():
            wait([self._census], timeout=_TICK_SECONDS)
            check()
        return self._census.result()


def is_empty(connection: Connection) -> bool:
    """Whether there is nothing of anybody's in the database: nothing that is in a schema, no schema, no large object,
    and none of what stands beside schemas."""
    return not _one(connection, _ANYTHING)[0]


def _cid_sets(connection: Connection, schema: str) -> tuple[CidSet, ...]:
    table = sql.Identifier(schema, "cids")
    in_parts = connection.info.server_version >= _CASTS_BYTES
    query = _CID_SETS_IN_PARTS if in_parts else _CID_SETS
    return tuple(
        CidSet(ispb=ispb, key_type=key_type, count=count, vsync=_from_parts(*xor) if in_parts else _from_bits(*xor))
        for ispb, key_type, count, *xor in connection.execute(query.format(table))
    )


def _from_bits(bits: str) -> str:
    return f"{int(bits, 2):064x}"


def _from_parts(*parts: int) -> str:
    return "".join(f"{part % 2**64:016x}" for part in parts)


def _one(connection: Connection, query: str | sql.Composed) -> tuple[Any, ...]:
    statement = query.encode() if isinstance(query, str) else query
    row = connection.cursor(row_factory=tuple_row).execute(statement).fetchone()
    if row is None:
        raise DatabaseFailed("the database has no answer to a question of the backup")
    return row
