"""Counts the rows and CIDs of a database in one snapshot."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType
from typing import Final, Self

import psycopg
from psycopg import sql

from vsyncd.backup.connection import Connection, fetch_one
from vsyncd.backup.manifest import CidSet, ContentSummary
from vsyncd.backup.tasks import TICK_S, Check
from vsyncd.migrate.store import Store

# The tables whose rows pg_dump dumps: logged tables that belong to no extension.
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
            schema=schema, tables=tables, cid_sets=cid_sets, migrations=Store(schema).versions(connection)
        )


class BackgroundSummary:
    """Runs summarize_content in a thread while the context lasts.

    Nothing else may use the connection meanwhile. If the block raises, the running statement is cancelled.
    """

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="backup summary")

    def __enter__(self) -> Self:
        self._summary = self._threads.submit(summarize_content, self._connection, self._schema)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None:
            with contextlib.suppress(psycopg.Error):  # the connection is lost
                self._connection.cancel_safe()
        self._threads.shutdown()

    def check(self) -> None:
        """Raises the summary's error, if it has failed."""
        if self._summary.done():
            self._summary.result()

    def result(self, check: Check) -> ContentSummary:
        """Wait for the summary. `check` is called a few times per second; its exception ends the wait."""
        while not self._summary.done():
            wait([self._summary], timeout=TICK_S)
            check()
        return self._summary.result()


def _count(connection: Connection, name: tuple[str, ...]) -> int:
    query = sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(*name))
    return int(fetch_one(connection, query)[0])


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
