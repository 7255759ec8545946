"""With many records each query uses its index, and each index is used by a query.

Both custom plans (for the values of a call) and generic plans are checked: psycopg prepares frequent statements, and
PostgreSQL then chooses the plan that it considers cheaper. tests/harness/query_plans.py says what a domain declares.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.resources import files
from itertools import chain
from types import ModuleType

import psycopg
import pytest
from vsyncd.domains.registry import DOMAINS
from vsyncd.postgres.queries import queries

from tests.harness.cids import rows
from tests.harness.clusters import Database, Databases
from tests.harness.query_plans import HISTORY, PlanCase, plan_of, this_week

# Filling the tables with a million records takes half a minute, and several minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)

FILL_REQUEST_IDS = f"""
    INSERT INTO vsync.request_ids (request_id, week, actor, method, fingerprint, answer)
    SELECT id, date_trunc('week', now() AT TIME ZONE 'UTC')::date, 'anonymous', 'm', uuid_send(id), cid
    FROM (SELECT id, cid FROM vsync.cids LIMIT {HISTORY}) AS c"""  # noqa: S608  a constant

# The indexes of tables with a handful of rows, which belong to no domain.
UNUSED_INDEXES = {
    "schema_migrations_pkey",
    "schema_migrations_dirty_pkey",
    "job_runs_pkey",
    "partitioned_tables_pkey",
    "tenant_key_pkey",
}

INDEXES = """
    SELECT c.relname AS name, coalesce(parent.relname, c.relname) AS family FROM pg_class AS c
    LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid LEFT JOIN pg_class AS parent ON parent.oid = i.inhparent
    WHERE c.relnamespace = 'vsync'::regnamespace AND c.relkind = 'i'"""


@pytest.fixture(scope="module")
def declared() -> list[ModuleType]:
    """The modules `query_plans` of the domains with queries, in the order of the registry."""
    with_queries = [name for name in DOMAINS if (files(f"vsyncd.domains.{name}") / "queries.sql").is_file()]
    return [import_module(f"tests.integration.domains.{name}.query_plans") for name in with_queries]


@pytest.fixture(scope="module", params=[100_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def large(
    databases: Callable[[int], Databases], declared: list[ModuleType], request: pytest.FixtureRequest
) -> Iterator[Database]:
    """Many CIDs with their events, audit entries and request ids, and the rows of every other domain."""
    with databases(18).fresh() as database:
        with psycopg.connect(database.admin, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '256MB'")
            connection.execute("SELECT set_config('test.records', %s, false)", [str(request.param)])
            fills = chain.from_iterable(module.FILL for module in declared)
            for statement in (*fills, FILL_REQUEST_IDS, "VACUUM ANALYZE"):
                connection.execute(statement.encode())
        yield database


def _find_request(database: Database) -> PlanCase:
    (row,) = rows(database, "SELECT request_id, actor, method FROM vsync.request_ids LIMIT 1")
    return PlanCase(queries("vsyncd.postgres", "vsync")["find_request"], row, {f"request_ids_{this_week()}_pkey"})


def test_each_query_uses_its_index_and_each_index_is_used(
    large: Database, declared: list[ModuleType], subtests: pytest.Subtests
) -> None:
    used: set[str] = set()
    cases = [_find_request(large), *chain.from_iterable(module.cases(large) for module in declared)]
    with psycopg.connect(large.admin, autocommit=True) as connection:
        for case in cases:
            for generic in (False, True):
                with subtests.test(case.query.name, generic=generic):
                    plan = plan_of(connection, case, generic=generic)
                    used |= plan.indexes
                    assert plan.scanned == []
                    assert case.indexes <= plan.indexes
    families = {row["name"]: row["family"] for row in rows(large, INDEXES)}
    unused = set(families.values()) - {families[name] for name in used}
    assert unused == UNUSED_INDEXES.union(*(getattr(module, "UNUSED_INDEXES", ()) for module in declared))
