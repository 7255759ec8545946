"""The queries of `shadow` and the indexes that their plans must use."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from vsyncd.core.ids import id_range
from vsyncd.domains.shadow.records import EvaluationFilter
from vsyncd.domains.shadow.repository import evaluation_queries
from vsyncd.domains.shadow.search import search_parameters, search_query

from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.query_plans import PlanCase, this_month

_FINGERPRINT = "decode(repeat('00', 32), 'hex')"
_HISTOGRAM = "array_fill(1, ARRAY[43])"


def fill(count: int) -> tuple[str, ...]:
    """Returns statements that fill the tables with this number of evaluations of this month, of which 1 % diverged.

    Half of the evaluations are of one candidate. Their fields `percent` and `rare` have 100 and 10,000 values.
    """
    return (
        "ALTER TABLE vsync.evaluations DISABLE TRIGGER evaluations_inserted",
        f"""INSERT INTO vsync.evaluations
            SELECT id, vsync.uuid_v7_time(id), 'limits', CASE WHEN n % 2 = 0 THEN 'main' ELSE (n % 500)::text END,
                   {_FINGERPRINT}, jsonb_build_object('half', n % 2 = 0, 'percent', h % 100, 'rare', h % 10000, 'n', n),
                   jsonb_build_object('n', n + (h % 100 = 0)::int), 1000, 2000, h % 100 = 0, (h % 100 = 0)::int,
                   CASE WHEN h % 100 = 0 THEN ARRAY['n'] ELSE '{{}}'::text[] END
            FROM (SELECT n, hashint4(n) & 2147483647 AS h,
                         (left(begin::text, 13) || '-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS id
                  FROM generate_series(1, {count}) AS n,
                       LATERAL vsync.uuid_v7_floor(date_trunc('month', now(), 'UTC')
                                                   + n * interval '28 days' / {count}) AS begin) AS numbered""",  # noqa: S608  numbers
        "ALTER TABLE vsync.evaluations ENABLE TRIGGER evaluations_inserted",
        f"""INSERT INTO vsync.evaluation_rollups
            SELECT date_trunc('month', now(), 'UTC') + hour * interval '1 hour', 'limits', version::text, folded, 1, 0,
                   {_HISTOGRAM}, {_HISTOGRAM}, '{{}}', '{{}}', 0
            FROM generate_series(0, 600) AS hour, generate_series(1, 10) AS version,
                 unnest(ARRAY[true, false]) AS folded""",  # noqa: S608  constants
    )


FILL = fill(20_000)
# Functions use them, whose plans EXPLAIN does not show; see test_search_cost.py.
UNUSED_INDEXES = {"evaluations_candidate_idx", "evaluations_diverged_idx", "evaluations_results_idx"}

SEARCHES = (
    EvaluationFilter(None, UUID(int=0), UUID(int=0), None, None, None),
    EvaluationFilter(None, UUID(int=0), UUID(int=0), True, None, None),
    EvaluationFilter(None, UUID(int=0), UUID(int=0), None, '{"half": true}', None),
)


_PARTITION_INDEX = """
    SELECT part.relname AS name FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid
    JOIN pg_index ON indexrelid = part.oid JOIN pg_class AS partition ON partition.oid = indrelid
    WHERE inhparent = ('vsync.' || %s)::regclass AND partition.relname LIKE '%%' || %s"""


def partition_index(database: Database, index: str) -> str:
    """Returns the name of an index of a partitioned table in the partition of this month."""
    (row,) = rows(database, _PARTITION_INDEX, index, this_month())
    name: str = row["name"]
    return name


def cases(database: Database) -> list[PlanCase]:
    """Returns the queries of ShadowService."""
    some = [row["evaluation_id"] for row in rows(database, "SELECT evaluation_id FROM vsync.evaluations LIMIT 3")]
    named = evaluation_queries("vsync")
    begin = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = begin + timedelta(days=31)
    from_id, below_id = id_range(begin, end)
    several = {"ids": some, "first": min(some), "last": max(some)}
    hours = {"name": "limits", "version": "7", "begin": begin, "end": end, "max_paths": 10}
    rollups = {"evaluation_rollups_folded_idx", "evaluation_rollups_deltas_idx"}
    key = {partition_index(database, "evaluations_pkey")}
    return [
        PlanCase(named["get"], {"id": some[0]}, key),
        PlanCase(named["get_many"], several, key),
        *(
            PlanCase(
                search_query("vsync", wanted),
                search_parameters(wanted._replace(from_id=from_id, below_id=below_id), size=100),
                key,
            )
            for wanted in SEARCHES
        ),
        PlanCase(named["summary"], hours, {partition_index(database, index) for index in rollups}),
    ]
