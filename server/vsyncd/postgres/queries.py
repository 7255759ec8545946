"""Named queries. Each package keeps its SQL in a file `queries.sql`:

    -- name: get_by_cid
    SELECT ... FROM "vsync".cids WHERE cid = %(cid)s;

Logs and metrics contain the name, but never the SQL or its parameters. `"vsync"` is replaced by DB_SCHEMA.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


class Query(NamedTuple):
    name: str
    sql: bytes


class Queries:
    """The queries of one package: `queries["get_by_cid"]`. Raises KeyError for an unknown name."""

    def __init__(self, package: str, schema: str, fragments: Mapping[str, str]) -> None:
        text = files(package).joinpath("queries.sql").read_text(encoding="utf-8")
        for name, fragment in fragments.items():
            text = text.replace(f"/*{name}*/", fragment)
        parts = _NAME.split(text.replace('"vsync"', f'"{schema}"'))
        prefix = package.rsplit(".", 1)[-1]
        self._queries = {
            name: Query(f"{prefix}.{name}", sql.strip().rstrip(";").encode())
            for name, sql in zip(parts[1::2], parts[2::2], strict=True)
        }

    def __getitem__(self, name: str) -> Query:
        return self._queries[name]

    def names(self) -> list[str]:
        """Returns the names in the order of the file."""
        return list(self._queries)


@cache
def queries(package: str, schema: str, **fragments: str) -> Queries:
    """Returns the queries of a package, read once. A fragment replaces the comment that has its name."""
    return Queries(package, schema, fragments)
