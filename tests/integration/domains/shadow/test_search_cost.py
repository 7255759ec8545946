"""The functions of a search read one index each, and a bounded number of rows, whatever the planner knows."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import psycopg
import pytest

from tests.harness.cids import rows
from tests.harness.clusters import Database, Databases
from tests.harness.query_plans import this_month
from tests.integration.domains.shadow.query_plans import fill

SCANNED = 50
RANGE = "vsync.uuid_v7_floor(now() - interval '31 days'), vsync.uuid_v7_floor(now() + interval '31 days')"
READ = """
    SELECT (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = %s) AS sequentially,
           indexrelname AS name, idx_tup_read AS entries
    FROM pg_stat_user_indexes WHERE relname = %s AND idx_scan > 0"""
FAMILY = """
    SELECT whole.relname AS name FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid
    JOIN pg_class AS whole ON whole.oid = inhparent WHERE part.relname = %s"""


class Case(NamedTuple):
    """A call of a function, the index that it reads, and the maximum number of entries that it reads."""

    call: str
    index_name: str
    max_entries: int


def of_candidate(name: str, version: str, diverged: str = "NULL", part: str = "NULL") -> str:
    return f"evaluations_of_candidate('{name}', '{version}', {diverged}, {part}, NULL, {RANGE}, {SCANNED}, 10)"


CASES = (
    Case(of_candidate("limits", "main"), "evaluations_candidate_idx", 10),
    Case(of_candidate("limits", "main", part="'{\"rare\": -1}'"), "evaluations_candidate_idx", SCANNED),
    Case(of_candidate("limits", "7", part="'{\"rare\": -1}'"), "evaluations_candidate_idx", SCANNED),
    Case(of_candidate("limits", "main", "false", "'{\"rare\": -1}'"), "evaluations_candidate_idx", SCANNED),
    Case(of_candidate("none", "0"), "evaluations_candidate_idx", 0),
    Case(of_candidate("limits", "main", "true", "'{\"rare\": -1}'"), "evaluations_diverged_idx", SCANNED),
    Case(of_candidate("none", "0", "true"), "evaluations_diverged_idx", 0),
    Case(f"evaluations_containing('{{\"percent\": 7}}', NULL, {RANGE}, 2000)", "evaluations_results_idx", 60),
    Case(f"evaluations_containing('{{\"half\": true}}', NULL, {RANGE}, 2000)", "evaluations_results_idx", 1500),
)


@pytest.fixture(scope="module", params=[False, True], ids=["unknown", "analyzed"])
def filled(request: pytest.FixtureRequest, databases: Callable[[int], Databases]) -> Iterator[Database]:
    """3,000 evaluations, half of them of one candidate. The planner has statistics, or not."""
    with databases(18).fresh() as database:
        with psycopg.connect(database.admin, autocommit=True) as connection:
            for statement in (*fill(3_000), *(["ANALYZE vsync.evaluations"] if request.param else [])):
                connection.execute(statement.encode())
        yield database


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_a_search_reads_one_index_and_a_bounded_number_of_rows(
    filled: Database, subtests: pytest.Subtests, mode: str
) -> None:
    partition = f"evaluations_{this_month()}"
    with psycopg.connect(filled.admin, autocommit=True) as connection:
        connection.execute(f"SET plan_cache_mode = {mode}".encode())
        for case in CASES:
            with subtests.test(case.call):
                connection.execute("SELECT pg_stat_force_next_flush()")
                connection.execute("SELECT pg_stat_reset()")
                connection.execute(f"SELECT count(*) FROM vsync.{case.call}".encode())  # noqa: S608  a constant
                connection.execute("SELECT pg_stat_force_next_flush()")
                (read,) = rows(filled, READ, partition, partition)
                assert read["sequentially"] == 0
                assert rows(filled, FAMILY, read["name"]) == [{"name": case.index_name}]
                # A backward scan may read a few entries ahead.
                assert read["entries"] <= case.max_entries + 5
