"""The queries of `reconciliation` and the indexes that their plans must use."""

from datetime import UTC, datetime, timedelta

from vsyncd.domains.reconciliation.event_repository import events_query
from vsyncd.postgres.queries import queries

from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.query_plans import GREATEST_ID, HISTORY, LEAST_ID, PlanCase, this_month

FILL = (
    # Over four weeks of the month.
    f"""INSERT INTO vsync.cid_events (ispb, key_type, change, cid, audit_id, created_at)
        SELECT ispb, key_type, 1, cid, id,
               date_trunc('month', now(), 'UTC') + interval '28 days' / {HISTORY} * row_number() OVER ()
        FROM vsync.cids LIMIT {HISTORY}""",  # noqa: S608  a constant
    """INSERT INTO vsync.vsync_verifications (id, created_at, ispb, key_type, directory_result, submitted_vsync,
                                              our_vsync, our_count, actor)
       SELECT id, vsync.uuid_v7_time(id), ispb, 1 + n % 5, 1 + (n % 100 = 0)::integer, cid, cid, 1, 'a'
       FROM (SELECT *, row_number() OVER () AS n FROM vsync.cids LIMIT 20000) AS c""",
)


def cases(database: Database) -> list[PlanCase]:
    """Returns the queries of ReconciliationService."""
    named, partition = queries("vsyncd.domains.reconciliation", "vsync"), f"cid_events_{this_month()}"
    cids = [row["cid"] for row in rows(database, "SELECT cid FROM vsync.cids ORDER BY id LIMIT 3")]
    group = {"ispb": "12345678", "key_type": 1}
    begin = datetime.now(UTC).replace(day=10, hour=0)
    feed = group | {
        "feed": 1,
        "ispbs": ["12345678"],
        "read_horizon": 2**62,
        "transaction_id": 2**40,
        "seq": 1,
        "limit": 1000,
        "last": 2**41,
        "at": begin,
        "min_transaction_id": 0,
        "horizon": 2**40 - 1000,
        "after_transaction_id": 0,
        "after_seq": 0,
        "from": begin,
        "to": begin + timedelta(days=1),
    }
    listing = {**group, "directory_result": None, "from": LEAST_ID, "below": GREATEST_ID, "limit": 101}
    return [
        # The planner cannot know that few of the deltas of cid_totals are newer than the last fold.
        PlanCase(
            named["vsyncs"],
            group | {"key_types": [1]},
            {"cid_totals_folded_idx", "cid_totals_pkey"},
            scans="cid_totals",
        ),
        # As above.
        PlanCase(
            named["status_vsyncs"],
            {"limit": 2001},
            {"cid_totals_folded_idx", "vsync_verifications_ispb_key_type_id_idx", "vsync_verifications_nok_idx"},
            scans="cid_totals",
        ),
        # In the order of cids or sorted, whichever is cheaper for the size of the group.
        PlanCase(named["cids_in_order"], group, set()),
        PlanCase(named["changed_since"], group | {"cids": cids, "change": 1, "since": begin}, {f"{partition}_cid_idx"}),
        PlanCase(named["get_verification"], {"id": LEAST_ID}, {"vsync_verifications_pkey"}),
        PlanCase(named["list_verifications"], listing, {"vsync_verifications_ispb_key_type_id_idx"}),
        PlanCase(named["measure"], {}, {"vsync_verifications_ispb_key_type_id_idx"}),
        PlanCase(named["last_event"], feed, {f"{partition}_pkey"}),
        PlanCase(named["find_event"], feed, {f"{partition}_pkey"}),
        PlanCase(named["count_events"], feed, {f"{partition}_pkey"}),
        *(
            PlanCase(events_query(named["events_after"], several=several), feed, {f"{partition}_pkey"})
            for several in (False, True)
        ),
        PlanCase(named["range"], feed, {f"{partition}_created_at_idx"}),
        PlanCase(named["events_of_range"], feed, {f"{partition}_pkey"}),
    ]
