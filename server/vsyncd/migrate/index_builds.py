"""CREATE INDEX CONCURRENTLY: the statement that leaves something behind when it fails, an index that is invalid."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from psycopg import Connection, sql

from vsyncd.migrate.statements import Statement

_BUILD = re.compile(
    r"""CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?P<may_exist>IF\s+NOT\s+EXISTS\s+)?
        (?P<name>"(?:[^"]|"")+"|[^\W\d][\w$]*)\s+ON\s+(?:ONLY\s+)?
        (?P<table>(?:(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)\s*\.\s*)?(?:"(?:[^"]|"")+"|[^\W\d][\w$]*))""",
    re.VERBOSE | re.IGNORECASE,
)
_DROP = re.compile(r"DROP\s+INDEX\s+CONCURRENTLY\s+IF\s+EXISTS\b|VACUUM\b", re.IGNORECASE)

_FIND = """
SELECT index.relname, namespace.nspname, pg_index.indisvalid FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class AS index ON index.oid = pg_index.indexrelid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = index.relnamespace
WHERE pg_index.indrelid = to_regclass(%(table)s) AND index.relname = %(name)s"""


class IndexBuild(NamedTuple):
    """The index that a statement builds: its name, and its table as the statement has it. `may_exist`: the statement
    takes any index of that name for it."""

    name: str
    table: str
    may_exist: bool

    def is_done(self, connection: Connection[Any]) -> bool:
        """Whether the index is there and valid."""
        return any(row[2] for row in connection.execute(_FIND, self._asdict()).fetchall())

    def drop_invalid(self, connection: Connection[Any]) -> bool:
        """Drop what a build that failed has left; whether there was something."""
        for name, schema, is_valid in connection.execute(_FIND, self._asdict()).fetchall():
            if not is_valid:
                connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(schema, name)))
                return True
        return False


def index_build(statement: Statement) -> IndexBuild | None:
    """The index that this statement builds concurrently, if it does and names it."""
    match = _BUILD.match(statement.text)
    if match is None:
        return None
    name = match["name"]
    plain = name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
    return IndexBuild(plain, match["table"], match["may_exist"] is not None)


def is_repeatable(statement: Statement) -> bool:
    """Whether it can be executed again when nobody knows how far it came."""
    return index_build(statement) is not None or _DROP.match(statement.text) is not None
