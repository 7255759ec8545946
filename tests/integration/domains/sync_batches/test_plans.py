"""With the oldest supported PostgreSQL no query of the package scans a large table.

../test_query_plans.py tests the newest with a million records.
"""

import psycopg
import pytest

from tests.harness.clusters import VERSIONS, Database
from tests.harness.query_plans import plan_of
from tests.integration.domains.sync_batches import query_plans

FILL = (
    'ALTER TABLE "vsync".cids DISABLE TRIGGER USER',
    """INSERT INTO "vsync".cids (id, created_at, cid, key_type, key_value, ispb, account_number, account_type, tax_id,
                                  sync_status, synced_at)
       SELECT id, "vsync".uuid_v7_time(id), sha256(id::text::bytea), 5, gen_random_uuid()::text, '12345678', '1', 1,
              '11122233300', CASE WHEN n % 10 = 0 THEN 1 ELSE 2 END, now()
       FROM (SELECT "vsync".uuid_v7(clock_timestamp()) AS id, n FROM generate_series(1, 50000) AS n) AS ids""",
    *query_plans.FILL,
    'ANALYZE "vsync".cids, "vsync".sync_batches, "vsync".sync_batch_records',
)


@pytest.mark.parametrize("postgres_version", [VERSIONS[-1]], indirect=True)
def test_each_query_uses_its_indexes(database: Database, subtests: pytest.Subtests) -> None:
    with psycopg.connect(database.admin, autocommit=True) as connection:
        for statement in FILL:
            connection.execute(statement.encode())
        for case in query_plans.cases(database):
            with subtests.test(case.query.name):
                plan = plan_of(connection, case, generic=False)
                assert plan.scanned == []
                assert case.indexes <= plan.indexes
