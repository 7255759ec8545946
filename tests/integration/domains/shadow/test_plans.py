"""The plans of every query among a million evaluations. tests/integration/domains/test_query_plans.py uses fewer."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.harness.clusters import Database, Databases
from tests.harness.query_plans import plan_of
from tests.integration.domains.shadow.query_plans import cases, fill

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def million(databases: Callable[[int], Databases]) -> Iterator[Database]:
    """A million evaluations of this month."""
    with databases(18).fresh() as database:
        with psycopg.connect(database.admin, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            for statement in (*fill(1_000_000), "VACUUM ANALYZE"):
                connection.execute(statement.encode())
        yield database


def test_each_query_uses_its_index_among_a_million_evaluations(million: Database, subtests: pytest.Subtests) -> None:
    with psycopg.connect(million.admin, autocommit=True) as connection:
        for case in cases(million):
            for generic in (False, True):
                with subtests.test(case.query.name, parameters=case.parameters, generic=generic):
                    plan = plan_of(connection, case, generic=generic)
                    assert plan.scanned == []
                    assert case.indexes <= plan.indexes
