"""Counts the rows and CIDs of a database in one snapshot, and computes the digests of its content.

A migration set may create views content_digest_<name> with one row and one column of type text: a digest of the rows of
its tables that depends neither on their order nor on settings of the session.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import psycopg
from psycopg import sql

from vsyncd.backup.connection import Connection, fetch_one
from vsyncd.backup.manifest import CidSet, ContentSummary
from vsyncd.migrate.store import MigrationStore

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
