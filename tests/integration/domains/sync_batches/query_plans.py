"""The queries of `sync_batches` and the indexes that their plans must use."""

from datetime import UTC, date, datetime
from uuid import UUID

from vsyncd.domains.sync_batches.batch_lock import batch_queries
from vsyncd.domains.sync_batches.repository import list_query

from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.query_plans import GREATEST_ID, HISTORY, PlanCase

BATCH = UUID(int=1)
NOW = datetime(2026, 11, 20, tzinfo=UTC)

# Batch 1 is RUNNING, the others are COMPLETED. Batches 1 and 2 have records.
FILL = (
    """INSERT INTO vsync.sync_batches (id, batch_date, status, total_records, synced_records, started_at, completed_at)
       SELECT lpad(to_hex(n), 32, '0')::uuid, date '2026-11-03' - n, s, 50000, CASE s WHEN 4 THEN 50000 ELSE 0 END,
              now(), CASE s WHEN 4 THEN now() END
       FROM (SELECT n, CASE n WHEN 1 THEN 3 ELSE 4 END AS s FROM generate_series(1, 3000) AS n) AS b""",
    f"""INSERT INTO vsync.sync_batch_records (batch_id, cid, outcome, claim_token)
        SELECT lpad(to_hex(n % 2 + 1), 32, '0')::uuid, cid,
               CASE WHEN n % 20 < 2 THEN NULL WHEN n % 2000 < 4 THEN 2 ELSE 1 END, id
        FROM (SELECT cid, id, row_number() OVER () AS n FROM vsync.cids LIMIT {HISTORY}) AS c""",  # noqa: S608  a constant
)


def cases(database: Database) -> list[PlanCase]:
    """Returns the queries of SyncBatchService."""
    some = rows(database, "SELECT id, cid FROM vsync.cids ORDER BY id LIMIT 3")
    ids, cids = [row["id"] for row in some], [row["cid"] for row in some]
    named = batch_queries("vsync")
    by_day, by_claim = {"sync_batches_batch_date_ispb_key"}, {"sync_batch_records_claim_token_idx"}
    of_batch, claim = {"batch_id": BATCH, "cids": cids}, {"claim_token": ids[0], "lease_until": NOW}
    listing = {
        "size": 101,
        "from_day": date.min,
        "below_day": date.max,
        "below_ispb": "~",
        "ispb": "",
        "ispbs": ["12345678"],
    }
    results = {"cids": cids, "ids": ids, "revisions": [1] * 3, "statuses": [2] * 3, "errors": [None] * 3}
    open_records = {"sync_batch_records_open_idx", "sync_batch_records_pkey", "cids_cid_key"}
    return [
        PlanCase(named["batch_by_id"], {"id": BATCH}, {"sync_batches_pkey", "sync_batch_records_open_idx"}),
        PlanCase(named["batch_id_by_key"], {"batch_date": date(2026, 10, 1), "ispb": ""}, by_day),
        *(
            PlanCase(list_query(named[name]), listing | {"status": 3}, indexes)
            for name, indexes in (("list_batches", by_day), ("list_batches_by_status", {"sync_batches_status_idx"}))
        ),
        # Any of the indexes: there is a batch per participant and day.
        *(
            PlanCase(list_query(named[name], several=True), listing | {"status": 3}, set())
            for name in ("list_batches", "list_batches_by_status")
        ),
        PlanCase(named["measure"], {}, {"sync_batches_status_idx", "sync_batch_records_open_idx"}),
        PlanCase(named["last_pending_cid"], {}, {"cids_sync_status_id_idx"}),
        PlanCase(
            named["take_in"],
            {"id": BATCH, "last": GREATEST_ID, "step": 1000, "ispb": ""},
            {"cids_sync_status_id_idx"},
        ),
        PlanCase(named["claim"], claim | {"batch_id": BATCH, "now": NOW, "limit": 100}, open_records),
        PlanCase(named["skip_deleted"], {"batch_id": BATCH, "now": NOW, "step": 10_000}, open_records),
        PlanCase(
            named["overlapping_batch"],
            {"id": BATCH, "ispb": "12345678"},
            {"sync_batches_status_idx", "sync_batch_records_open_idx"},
        ),
        PlanCase(named["claimed_records"], claim, by_claim | {"cids_pkey"}),
        PlanCase(named["extend"], claim, by_claim),
        PlanCase(named["release"], claim, by_claim),
        PlanCase(named["lock_records"], of_batch, {"sync_batch_records_pkey"}),
        PlanCase(named["apply_results"], results, {"cids_cid_key", "cids_pkey"}),
        PlanCase(named["settle_records"], of_batch | {"outcomes": [1] * 3}, {"sync_batch_records_pkey"}),
        PlanCase(
            named["status_batches"],
            {"limit": 501, "failed_days": 7},
            {*by_day, "sync_batches_status_idx", "sync_batch_records_open_idx"},
        ),
        PlanCase(
            named["failure_reasons"],
            {"batch_ids": [BATCH], "per_batch": 50},
            {"sync_batch_records_failed_idx", "cids_cid_key"},
        ),
        PlanCase(named["reopen_failed"], {"id": BATCH, "step": 100}, {"sync_batch_records_failed_idx"}),
    ]
