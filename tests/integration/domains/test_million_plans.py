"""The plans of the queries among a million payments, evaluations or IOCs. test_query_plans.py uses fewer of them.

It checks each domain whose module `query_plans` has a function `fill`.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType

import psycopg
import pytest

from tests.harness.clusters import Database, Databases
from tests.harness.query_plans import plan_of

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=["payments", "shadow", "iocs"])
def declared(request: pytest.FixtureRequest) -> ModuleType:
    """The domain's module `query_plans`."""
    return import_module(f"tests.integration.domains.{request.param}.query_plans")


@pytest.fixture(scope="module")
def million(databases: Callable[[int], Databases], declared: ModuleType) -> Iterator[Database]:
    """A database with a million rows of the domain, of this month."""
    with databases(18).fresh() as database:
        with psycopg.connect(database.admin, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            for statement in (*declared.fill(1_000_000), "VACUUM ANALYZE"):
                connection.execute(statement.encode())
        yield database


def test_each_query_uses_its_index_among_a_million_rows(
    million: Database, declared: ModuleType, subtests: pytest.Subtests
) -> None:
    with psycopg.connect(million.admin, autocommit=True) as connection:
        for case in declared.cases(million):
            for generic in (False, True):
                with subtests.test(case.query.name, parameters=case.parameters, generic=generic):
                    plan = plan_of(connection, case, generic=generic)
                    assert plan.scanned == []
                    assert case.indexes <= plan.indexes
