"""Checks that each query of a domain uses its index, and that each index is used by a query.

Both custom plans (for the values of a call) and generic plans are checked: psycopg prepares frequent statements, and
PostgreSQL then chooses the plan that it considers cheaper.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import ClientCursor
from vsyncd.postgres.queries import Query

from tests.harness.cids import rows
from tests.harness.clusters import Database

_MIGRATIONS = Path(__file__).parents[2] / "migrations"
_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_INDEXES = """
    SELECT coalesce(parent.relname, c.relname) AS family, c.relname AS name
    FROM pg_class AS c JOIN pg_index ON indexrelid = c.oid JOIN pg_class AS indexed ON indexed.oid = indrelid
    LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid LEFT JOIN pg_class AS parent ON parent.oid = i.inhparent
    LEFT JOIN pg_inherits AS t ON t.inhrelid = indrelid LEFT JOIN pg_class AS whole ON whole.oid = t.inhparent
    WHERE c.relnamespace = 'vsync'::regnamespace AND coalesce(whole.relname, indexed.relname) = ANY (%s)"""


class Case(NamedTuple):
    """A query, its parameters, and the indexes that its plan must use."""

    query: Query
    values: dict[str, Any]
    indexes: set[str]


def tables_of(*sets: str) -> list[str]:
    """The tables that migration sets create."""
    texts = (path.read_text() for name in sets for path in (_MIGRATIONS / name).glob("*.up.sql"))
    return [table for text in texts for table in re.findall(r'CREATE TABLE "vsync"\.(\w+)', text)]


def check_plans(
    database: Database,
    cases: Sequence[Case],
    *,
    tables: Collection[str],
    big: Sequence[str],
    unused: Collection[str] = (),
    subtests: pytest.Subtests,
) -> None:
    """Explains each query. Every index of `tables` must be used, except `unused`.

    No query may read a whole table whose name begins with one of `big`.
    """
    used: set[str] = set()
    with psycopg.connect(database.admin, autocommit=True) as connection:
        for case in cases:
            for generic in (False, True):
                with subtests.test(case.query.name, generic=generic):
                    plan = explained(connection, case, generic=generic)
                    indexes = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
                    used |= indexes
                    assert _read_whole(plan, tuple(big)) == []
                    assert case.indexes <= indexes
    families = {row["name"]: row["family"] for row in rows(database, _INDEXES, list(tables))}
    assert set(families.values()) - {families.get(name) for name in used} - set(unused) == set()


def explained(connection: psycopg.Connection[Any], case: Case, *, generic: bool) -> Any:
    """Returns the plan of a query: for its values, or the generic plan."""
    sql = case.query.sql.decode()
    if generic:
        names: list[str] = list(dict.fromkeys(_PLACEHOLDER.findall(sql)))
        numbered = _PLACEHOLDER.sub(lambda found: f"${names.index(found[1]) + 1}", sql).replace("%%", "%")
        row = connection.execute(f"EXPLAIN (FORMAT JSON, GENERIC_PLAN) {numbered}".encode()).fetchone()
    else:
        row = ClientCursor(connection).execute(b"EXPLAIN (FORMAT JSON) " + case.query.sql, case.values).fetchone()
    assert row is not None
    return row[0][0]["Plan"]


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """Yields every node of a plan."""
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def _read_whole(plan: Any, big: tuple[str, ...]) -> list[str]:
    """Returns the big tables that a plan scans sequentially, except nearly empty partitions."""
    return [
        node["Relation Name"]
        for node in nodes(plan)
        if node["Node Type"] == "Seq Scan" and node["Relation Name"].startswith(big) and node["Total Cost"] > 500
    ]
