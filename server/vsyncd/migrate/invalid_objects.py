"""Finds what an interrupted concurrent statement left in a database: invalid indexes and pending detaches."""

from __future__ import annotations

import re

import psycopg
from psycopg import sql

from vsyncd.migrate.connections import connected

# Without the tables on which an index is being built at the moment: it is invalid until then.
_INVALID_INDEXES = """
SELECT namespace.nspname, index.relname, indrelid::regclass::text, index.relkind = 'I'
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class AS index ON index.oid = indexrelid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = index.relnamespace
WHERE NOT indisvalid
AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index AS build WHERE build.relid = indrelid)
ORDER BY 1, 2"""
_PENDING_DETACHES = """
SELECT inhparent::regclass::text, inhrelid::regclass::text
FROM pg_catalog.pg_inherits WHERE inhdetachpending ORDER BY 1, 2"""
_TRANSIENT_NAME = re.compile(r".*_cc(?:new|old)[0-9]*", re.DOTALL)


def find_invalid_objects(conninfo: str) -> tuple[str, ...]:
    """The invalid indexes and pending detaches of the whole database, a line each with the remedy.

    Raises DatabaseRefused.
    """
    with connected(conninfo) as connection, connection.transaction():
        # Names come with their schemas.
        connection.execute("SET LOCAL search_path = ''")
        return (*_invalid_indexes(connection), *_pending_detaches(connection))


def _invalid_indexes(connection: psycopg.Connection) -> list[str]:
    found = []
    for schema, name, table, is_partitioned in connection.execute(_INVALID_INDEXES).fetchall():
        index = sql.Identifier(schema, name).as_string()
        drop = f"DROP INDEX CONCURRENTLY {index}"
        if is_partitioned:
            remedy = "not every partition has its index attached: ALTER INDEX ... ATTACH PARTITION"
        elif _TRANSIENT_NAME.fullmatch(name):
            remedy = f"an interrupted REINDEX CONCURRENTLY left it: {drop}"
        else:
            remedy = f"an interrupted CREATE or DROP INDEX CONCURRENTLY left it: {drop}, and create it again if needed"
        found.append(f"the index {index} of {table} is invalid; {remedy}")
    return found


def _pending_detaches(connection: psycopg.Connection) -> list[str]:
    return [
        f"the partition {partition} of {table} is pending detach; an interrupted DETACH PARTITION CONCURRENTLY left it:"
        f" ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE"
        for table, partition in connection.execute(_PENDING_DETACHES).fetchall()
    ]
