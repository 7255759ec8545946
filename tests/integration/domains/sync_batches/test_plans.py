"""With the oldest supported PostgreSQL no query of the package scans a large table.

test_query_plans.py tests the newest with a million records.
"""

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from vsyncd.domains.sync_batches.batch_lock import batch_queries

from tests.harness.clusters import VERSIONS
from tests.integration.domains.sync_batches.batches import Store

BATCH = UUID(int=1)
NOW = datetime(2026, 11, 3, tzinfo=UTC)
CIDS = [bytes([n]) * 32 for n in range(10)]

FILL = (
    'ALTER TABLE "vsync".cids DISABLE TRIGGER USER',
    """INSERT INTO "vsync".cids (id, created_at, cid, key_type, key_value, ispb, account_number, account_type, tax_id,
                                  sync_status, synced_at)
       SELECT id, "vsync".uuid_v7_time(id), sha256(id::text::bytea), 5, gen_random_uuid()::text, '12345678', '1', 1,
              '11122233300', CASE WHEN n % 10 = 0 THEN 1 ELSE 2 END, now()
       FROM (SELECT "vsync".uuid_v7(clock_timestamp()) AS id, n FROM generate_series(1, 50000) AS n) AS ids""",
    """INSERT INTO "vsync".sync_batches (id, batch_date, status, total_records, synced_records, started_at)
       SELECT lpad(to_hex(n), 32, '0')::uuid, date '2026-11-03' - n, 3, 50000, 0, now()
       FROM generate_series(1, 5000) AS n""",
    """INSERT INTO "vsync".sync_batch_records (batch_id, cid, outcome, claim_token)
       SELECT lpad(to_hex(n % 2 + 1), 32, '0')::uuid, cid, CASE n % 20 WHEN 0 THEN NULL WHEN 1 THEN 2 ELSE 1 END, id
       FROM (SELECT cid, id, row_number() OVER () AS n FROM "vsync".cids) AS c""",
    'ANALYZE "vsync".cids, "vsync".sync_batches, "vsync".sync_batch_records',
)

QUERIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "batch_by_id": ({"id": BATCH}, {"sync_batches_pkey", "sync_batch_records_open_idx"}),
    "batch_id_by_key": ({"batch_date": date(2026, 10, 1), "ispb": ""}, {"sync_batches_batch_date_ispb_key"}),
    "overlapping_batch": ({"id": BATCH, "ispb": ""}, {"sync_batch_records_open_idx"}),
    "list_batches": (
        {"from_day": date.min, "below_day": date.max, "below_ispb": "~", "ispb": "", "size": 101},
        {"sync_batches_batch_date_ispb_key"},
    ),
    "list_batches_by_status": (
        {"status": 2, "from_day": date.min, "below_day": date.max, "below_ispb": "~", "ispb": "", "size": 101},
        {"sync_batches_status_idx"},
    ),
    "last_pending_cid": ({}, {"cids_sync_status_id_idx"}),
    "take_in": ({"id": BATCH, "last": UUID(int=2**128 - 1), "step": 1000, "ispb": ""}, {"cids_sync_status_id_idx"}),
    "claim": (
        {"batch_id": BATCH, "now": NOW, "limit": 100, "claim_token": UUID(int=3), "lease_until": NOW},
        {"sync_batch_records_open_idx", "sync_batch_records_pkey", "cids_cid_key"},
    ),
    "skip_deleted": (
        {"batch_id": BATCH, "now": NOW, "step": 1000},
        {"sync_batch_records_open_idx", "sync_batch_records_pkey", "cids_cid_key"},
    ),
    "claimed_records": ({"claim_token": UUID(int=3)}, {"sync_batch_records_claim_token_idx", "cids_pkey"}),
    "extend": ({"claim_token": UUID(int=3), "lease_until": NOW}, {"sync_batch_records_claim_token_idx"}),
    "release": ({"claim_token": UUID(int=3)}, {"sync_batch_records_claim_token_idx"}),
    "lock_records": ({"batch_id": BATCH, "cids": CIDS}, {"sync_batch_records_pkey"}),
    "apply_results": (
        {
            "cids": CIDS,
            "ids": [BATCH] * 10,
            "revisions": [1] * 10,
            "statuses": [2] * 10,
            "errors": [None] * 10,
        },
        {"cids_cid_key", "cids_pkey"},
    ),
    "settle_records": ({"batch_id": BATCH, "cids": CIDS, "outcomes": [1] * 10}, {"sync_batch_records_pkey"}),
    "reopen_failed": ({"id": BATCH, "step": 100}, {"sync_batch_records_pkey", "cids_cid_key", "cids_pkey"}),
}


@pytest.mark.parametrize("postgres_version", [VERSIONS[-1]], indirect=True)
def test_each_query_uses_an_index(store: Store) -> None:
    for statement in FILL:
        store.run(statement)
    named = batch_queries("vsync")
    for name, (parameters, indexes) in QUERIES.items():
        plan = "\n".join(row[0] for row in store.query("EXPLAIN " + named[name].sql.decode(), parameters))
        for index in indexes:
            assert index in plan, f"{name}\n{plan}"
        if name == "overlapping_batch":  # only a few of all batches are open
            plan = plan.replace("Seq Scan on sync_batches b", "")
        assert "Seq Scan" not in plan, f"{name}\n{plan}"
