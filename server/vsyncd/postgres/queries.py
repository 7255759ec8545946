"""SQL, written as SQL: each room has a `queries.sql`, and each query in it a name.

    -- name: get_by_cid
    SELECT ... FROM "vsync".cids WHERE cid = %(cid)s;

The name stands in logs and metrics, where the SQL and its parameters never do. `"vsync"` is the schema; with another
DB_SCHEMA that name takes its place.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


class Query(NamedTuple):
    """A named statement."""

    name: str
    sql: bytes


class Queries:
    """The queries of one room: `queries["get_by_cid"]`. KeyError for an unknown name."""

    def __init__(self, package: str, schema: str, fragments: Mapping[str, str]) -> None:
        text = files(package).joinpath("queries.sql").read_text(encoding="utf-8")
        for name, fragment in fragments.items():
            text = text.replace(f"/*{name}*/", fragment)
        parts = _NAME.split(text.replace('"vsync"', f'"{schema}"'))
        room = package.rsplit(".", 1)[-1]
        self._queries = {
            name: Query(f"{room}.{name}", sql.strip().rstrip(";").encode())
            for name, sql in zip(parts[1::2], parts[2::2], strict=True)
        }

    def __getitem__(self, name: str) -> Query:
        return self._queries[name]

    def names(self) -> list[str]:
        """All the names, in the file's order."""
        return list(self._queries)


@cache
def queries(package: str, schema: str, **fragments: str) -> Queries:
    """The queries of a package, read once. `fragments` is SQL by name; it replaces `/*name*/` in the queries."""
    return Queries(package, schema, fragments)
