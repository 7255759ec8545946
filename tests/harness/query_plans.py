"""Queries with the indexes that their plans must use, and their plans.

Each domain with a `queries.sql` has a module tests/integration/domains/<name>/query_plans.py with

- `FILL`: statements that fill its tables (the domains follow each other in the order of the registry). The number of
  CIDs is `current_setting('test.records')`;
- `cases(database)`: its queries, as `PlanCase`;
- `UNUSED_INDEXES` (optional): those of tables with a handful of rows, and those that only enforce a constraint.

tests/integration/domains/test_query_plans.py checks them, with a million CIDs in `make soak`.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import ClientCursor
from vsyncd.postgres.queries import Query

HISTORY = 30_000
LEAST_ID, GREATEST_ID = UUID(int=0), UUID(int=(1 << 128) - 1)
_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
# The cost above which a sequential scan is a fault. Nearly empty tables and partitions cost less.
_MAX_SCAN_COST = 500


class PlanCase(NamedTuple):
    """A query, its parameters, the indexes that its plan must use, and the table that it may scan, if any."""

    query: Query
    parameters: dict[str, Any]
    indexes: set[str]
    scans: str | None = None


class QueryPlan(NamedTuple):
    """The indexes that a plan uses, and the tables that it scans sequentially at a high cost."""

    indexes: set[str]
    scanned: list[str]


def this_month() -> str:
    """The suffix of the partitions of this month."""
    return f"{datetime.now(UTC):%Y_%m}"


def this_week() -> str:
    """The suffix of the partitions of this week."""
    return f"{datetime.now(UTC):%G_w%V}"


def plan_of(connection: psycopg.Connection[Any], case: PlanCase, *, generic: bool) -> QueryPlan:
    """Returns the custom plan (for the parameters of the case) or the generic plan of a query."""
    sql = case.query.sql.decode()
    if generic:
        names: list[str] = list(dict.fromkeys(_PLACEHOLDER.findall(sql)))
        numbered = _PLACEHOLDER.sub(lambda found: f"${names.index(found[1]) + 1}", sql).replace("%%", "%")
        row = connection.execute(f"EXPLAIN (FORMAT JSON, GENERIC_PLAN) {numbered}".encode()).fetchone()
    else:
        row = ClientCursor(connection).execute(f"EXPLAIN (FORMAT JSON) {sql}".encode(), case.parameters).fetchone()
    assert row is not None
    nodes = list(_nodes(row[0][0]["Plan"]))
    return QueryPlan(
        indexes={node["Index Name"] for node in nodes if "Index Name" in node},
        scanned=[
            node["Relation Name"]
            for node in nodes
            if node["Node Type"] == "Seq Scan"
            and node["Total Cost"] > _MAX_SCAN_COST
            and node["Relation Name"] != case.scans
        ],
    )


def _nodes(plan: Any) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)
