"""With a million records each query uses its index, and each index is used by a query."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from json import dumps
from uuid import UUID

import psycopg
import pytest
from vsyncd.domains.audit.repository import filtered_query, list_query
from vsyncd.domains.cids.access_paths import choose_access_path, filter_parameters, with_access_path
from vsyncd.domains.cids.records import CID_COLUMNS, CidFilter
from vsyncd.domains.cids.repository import CidRepository
from vsyncd.domains.sync_batches.batch_lock import batch_queries
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.mutations import Mutations
from vsyncd.postgres.queries import Queries, Query, queries

from tests.harness.cids import rows as rows_of
from tests.harness.clusters import Database, Databases
from tests.harness.query_plans import Case, check_plans, tables_of
from tests.harness.serving import settings_for

RECORDS = 1_000_000
HISTORY = 100_000
NOW = datetime(2026, 11, 20, tzinfo=UTC)
BATCH = UUID(int=1)
LEAST_ID, GREATEST_ID = UUID(int=0), UUID(int=(1 << 128) - 1)
BIG = ("cids", "cid_events_", "audit_logs_", "request_ids_", "import_chunks", "sync_batch_records", "sync_batches")

# The ids are five milliseconds apart, up to now. One record in ten is not SYNCED.
FILL = (
    "ALTER TABLE vsync.cids DISABLE TRIGGER USER",
    # Checking constraints and maintaining indexes for each record would take longer than inserting it.
    """DO $$ DECLARE what record; BEGIN
           CREATE TEMPORARY TABLE later AS
           SELECT format('ALTER TABLE vsync.cids ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)) AS ddl
           FROM pg_constraint WHERE conrelid = 'vsync.cids'::regclass AND contype IN ('p', 'u')
           UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index
           WHERE indrelid = 'vsync.cids'::regclass AND NOT indisunique;
           FOR what IN SELECT conname FROM pg_constraint
                       WHERE conrelid = 'vsync.cids'::regclass AND contype IN ('p', 'u', 'c') LOOP
               EXECUTE format('ALTER TABLE vsync.cids DROP CONSTRAINT %I', what.conname);
           END LOOP;
           FOR what IN SELECT indexrelid::regclass AS name FROM pg_index WHERE indrelid = 'vsync.cids'::regclass LOOP
               EXECUTE format('DROP INDEX %s', what.name);
           END LOOP;
       END $$""",
    "ALTER TABLE vsync.cids SET UNLOGGED",
    f"""INSERT INTO vsync.cids (id, created_at, synced_at, cid, key_type, key_value, ispb, account_number, account_type,
                                tax_id, sync_status, last_error)
        SELECT id, now(), now(), sha256(id::text::bytea), 1 + n % 5, lpad(n::text, 36, 'k'),
               CASE WHEN n % 100 < 90 THEN '12345678' ELSE lpad((n % 50)::text, 8, '0') END, '1', 1,
               lpad((n % 400000)::text, 11, '0'), CASE WHEN n % 10 > 0 THEN 2 WHEN n % 20 = 0 THEN 1 ELSE 3 END,
               CASE WHEN n % 20 = 10 THEN 'no' END
        FROM (SELECT n, (lpad(to_hex(floor(extract(epoch FROM now()) * 1000)::bigint - 5 * ({RECORDS} - n)), 12, '0')
                         || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid AS id
              FROM generate_series(1, {RECORDS}) AS n) AS ids""",  # noqa: S608  a constant of this module
    "DO $$ DECLARE what record; BEGIN FOR what IN SELECT ddl FROM later LOOP EXECUTE what.ddl; END LOOP; END $$",
    f"""INSERT INTO vsync.audit_logs (id, created_at, correlation_id, actor, action, resource, ispb, key_value, cid)
        SELECT id, vsync.uuid_v7_time(id), 'trace-' || id, 'actor-' || n % 1000, 'action-' || n % 500, 'cids/' || id,
               ispb, key_value, cid
        FROM (SELECT *, row_number() OVER () AS n FROM vsync.cids LIMIT {HISTORY}) AS c""",  # noqa: S608  as above
    # Over four weeks of the month.
    f"""INSERT INTO vsync.cid_events (ispb, key_type, change, cid, audit_id, created_at)
        SELECT ispb, key_type, 1, cid, id,
               date_trunc('month', now(), 'UTC') + interval '28 days' / {HISTORY} * row_number() OVER ()
        FROM vsync.cids LIMIT {HISTORY}""",  # noqa: S608  as above
    f"""INSERT INTO vsync.request_ids (request_id, week, actor, method, fingerprint, answer)
        SELECT id, date_trunc('week', now() AT TIME ZONE 'UTC')::date, 'anonymous', 'm', uuid_send(id), cid
        FROM (SELECT id, cid FROM vsync.cids LIMIT {HISTORY}) AS c""",  # noqa: S608  as above
    """INSERT INTO vsync.imports (import_id, actor, on_conflict, initial_sync_status)
       SELECT lpad(to_hex(n), 32, '0')::uuid, 'a', 1, 1 FROM generate_series(1, 5000) AS n""",
    """INSERT INTO vsync.import_chunks (import_id, number, fingerprint, answer)
       SELECT import_id, n, decode(repeat('00', 16), 'hex'), '' FROM vsync.imports, generate_series(1, 20) AS n""",
    """INSERT INTO vsync.cid_totals (ispb, key_type, sync_status, records, folded)
       SELECT lpad(n::text, 8, '0'), k, s, 1, true
       FROM generate_series(1, 2000) AS n, generate_series(1, 5) AS k, generate_series(1, 3) AS s""",
    """INSERT INTO vsync.sync_batches (id, batch_date, status, total_records, synced_records, started_at, completed_at)
       SELECT lpad(to_hex(n), 32, '0')::uuid, date '2026-11-03' - n, s, 50000, CASE s WHEN 4 THEN 50000 ELSE 0 END,
              now(), CASE s WHEN 4 THEN now() END
       FROM (SELECT n, CASE n WHEN 1 THEN 3 ELSE 4 END AS s FROM generate_series(1, 3000) AS n) AS b""",
    f"""INSERT INTO vsync.sync_batch_records (batch_id, cid, outcome, claim_token)
        SELECT lpad(to_hex(n % 2 + 1), 32, '0')::uuid, cid,
               CASE WHEN n % 20 < 2 THEN NULL WHEN n % 2000 < 4 THEN 2 ELSE 1 END, id
        FROM (SELECT cid, id, row_number() OVER () AS n FROM vsync.cids LIMIT {HISTORY}) AS c""",  # noqa: S608  as above
    """INSERT INTO vsync.vsync_verifications (id, created_at, ispb, key_type, directory_result, submitted_vsync,
                                              our_vsync, our_count, actor)
       SELECT id, vsync.uuid_v7_time(id), ispb, 1 + n % 5, 1, cid, cid, 1, 'a'
       FROM (SELECT *, row_number() OVER () AS n FROM vsync.cids LIMIT 20000) AS c""",
    """INSERT INTO vsync.cid_changes (transaction_id, added, cids)
       SELECT n::text::xid8, false, cid
       FROM (SELECT row_number() OVER () AS n, cid FROM vsync.cids LIMIT 50000) AS c""",
    "VACUUM ANALYZE",
)


@pytest.fixture(scope="module")
def large(databases: Callable[[int], Databases]) -> Iterator[Database]:
    """A million records with their events and audit entries."""
    with databases(18).fresh() as database:
        with psycopg.connect(database.admin, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '256MB'")
            for statement in FILL:
                connection.execute(statement.encode())
        yield database


def _cases(large: Database) -> list[Case]:
    some = rows_of(large, "SELECT id, cid, key_value, ispb FROM vsync.cids ORDER BY id LIMIT 3")
    ids, cids = [row["id"] for row in some], [row["cid"] for row in some]
    month, week = (
        rows_of(large, "SELECT to_char(now() AT TIME ZONE 'UTC', %s) AS name", form)[0]["name"]
        for form in ("YYYY_MM", 'IYYY_"w"IW')
    )
    one = {"id": ids[0], "cid": cids[0], "key_value": some[0]["key_value"], "ispb": some[0]["ispb"], "now": NOW}
    import_id = {"import_id": UUID(int=1), "number": 3, "audit_id": str(ids[0])}
    json = dumps([{"cid": "\\x" + cids[0].hex(), "key_value": one["key_value"], "ispb": "12345678"}])
    room = queries("vsyncd.domains.cids", "vsync", columns=CID_COLUMNS)
    frame = queries("vsyncd.postgres", "vsync")
    batches = batch_queries("vsync")
    trail = queries("vsyncd.domains.audit", "vsync")
    sets = queries("vsyncd.domains.reconciliation", "vsync")
    cache = queries("vsyncd.cache", "vsync")
    period = {"from": LEAST_ID, "below": GREATEST_ID, "limit": 101}
    every_cid = {"cid": cids}
    update = {**one, "branch": None, "account_number": "1", "account_type": 1, "dict_request_id": None}
    status = {**every_cid, "sync_status": 2, "error": None, "now": NOW}
    by_day = {"sync_batches_batch_date_ispb_key"}
    intake = {"id": BATCH, "last": GREATEST_ID, "step": 1000, "ispb": ""}
    claim = {"claim_token": ids[0], "lease_until": NOW}
    results = {"ids": ids, "revisions": [1] * 3, "statuses": [2] * 3, "errors": [None] * 3}
    listing = {"from_day": date.min, "below_day": date.max, "below_ispb": "~", "ispb": "", "size": 101}
    cases = [
        Case(room["get_by_ids"], {"id": ids}, {"cids_pkey"}),
        Case(room["get_by_cids"], every_cid, {"cids_cid_key"}),
        Case(
            room["get_by_keys"],
            {"key_value": [row["key_value"] for row in some], "ispb": [row["ispb"] for row in some]},
            {"cids_key_value_ispb_key"},
        ),
        Case(room["lock_by_id"], one, {"cids_pkey"}),
        Case(room["lock_by_cid"], one, {"cids_cid_key"}),
        Case(room["lock_by_key"], one, {"cids_key_value_ispb_key"}),
        Case(room["find_conflicts"], {"rows": json}, {"cids_cid_key", "cids_key_value_ispb_key"}),
        Case(room["cids_of_other_keys"], {"rows": json}, {"cids_cid_key"}),
        Case(room["cid_holder"], one, {"cids_cid_key"}),
        Case(room["update"], update, {"cids_pkey"}),
        Case(room["update_sync_status"], status, {"cids_cid_key", "cids_pkey"}),
        Case(room["delete"], one, {"cids_pkey"}),
        Case(room["delete_many"], every_cid, {"cids_cid_key", "cids_pkey"}),
        Case(room["count_of_ispb"], {"ispb": "00000007"}, {"cid_totals_folded_idx", "cid_totals_pkey"}),
        Case(room["find_import"], import_id, {"imports_pkey"}),
        Case(room["lock_import"], import_id, {"imports_pkey"}),
        Case(room["find_chunk"], import_id, {"import_chunks_pkey"}),
        Case(
            frame["find_request"],
            {"request_id": ids[0], "actor": "anonymous", "method": "m"},
            {f"request_ids_{week}_pkey"},
        ),
        Case(trail["get"], one, {f"audit_logs_{month}_pkey"}),
        Case(trail["get_all"], {"ids": ids, "first": min(ids), "last": max(ids)}, {f"audit_logs_{month}_pkey"}),
        *(
            Case(query, {"value": value, "ispb": "12345678", "size": 101} | period, {f"audit_logs_{month}_{by}_id_idx"})
            for by, value in (
                ("correlation_id", f"trace-{ids[0]}"),
                ("key_value", one["key_value"]),
                ("action", "action-7"),
                ("actor", "actor-7"),
                ("resource", f"cids/{ids[0]}"),
            )
            for listed in (list_query(trail["list_by"], by),)
            for query in (listed, filtered_query(trail["list_filtered"], listed))
        ),
        Case(trail["list_by_ispb"], {"value": "00000007"} | period, {f"audit_logs_{month}_ispb_id_idx"}),
        Case(
            trail["list_by_cid"],
            {"value": cids[0]} | period,
            {f"audit_logs_{month}_cid_id_idx", f"cid_events_{month}_cid_idx"},
        ),
        Case(batches["batch_by_id"], {"id": BATCH}, {"sync_batches_pkey", "sync_batch_records_open_idx"}),
        Case(batches["batch_id_by_key"], {"batch_date": date(2026, 10, 1), "ispb": ""}, by_day),
        Case(batches["list_batches"], listing, by_day),
        Case(batches["list_batches_by_status"], listing | {"status": 3}, {"sync_batches_status_idx"}),
        Case(batches["last_pending_cid"], {}, {"cids_sync_status_id_idx"}),
        Case(batches["take_in"], intake, {"cids_sync_status_id_idx"}),
        Case(
            batches["claim"],
            claim | {"batch_id": BATCH, "now": NOW, "limit": 100},
            {"sync_batch_records_open_idx", "sync_batch_records_pkey", "cids_cid_key"},
        ),
        Case(
            batches["skip_deleted"],
            {"batch_id": BATCH, "now": NOW, "step": 10_000},
            {"sync_batch_records_open_idx", "sync_batch_records_pkey", "cids_cid_key"},
        ),
        Case(
            batches["overlapping_batch"],
            {"id": BATCH, "ispb": "12345678"},
            {"sync_batches_status_idx", "sync_batch_records_open_idx"},
        ),
        Case(batches["claimed_records"], claim, {"sync_batch_records_claim_token_idx", "cids_pkey"}),
        Case(batches["extend"], claim, {"sync_batch_records_claim_token_idx"}),
        Case(batches["release"], claim, {"sync_batch_records_claim_token_idx"}),
        Case(batches["lock_records"], {"batch_id": BATCH, "cids": cids}, {"sync_batch_records_pkey"}),
        Case(batches["apply_results"], {"cids": cids, **results}, {"cids_cid_key", "cids_pkey"}),
        Case(
            batches["settle_records"],
            {"batch_id": BATCH, "cids": cids, "outcomes": [1] * 3},
            {"sync_batch_records_pkey"},
        ),
        # The last poll has seen all but the last changes, while two transactions were running.
        Case(cache["poll"], {"since": "49980:49990:49980,49985"}, {"cid_changes_transaction_id_idx"}),
        Case(batches["reopen_failed"], {"id": BATCH, "step": 100}, {"sync_batch_records_failed_idx"}),
    ]
    return cases + _reconciliation(sets, cids) + _paths(large)


def _reconciliation(sets: Queries, cids: list[bytes]) -> list[Case]:
    month = f"{datetime.now(UTC):%Y_%m}"
    group = {"ispb": "12345678", "key_type": 1}
    feed = {
        "feed": 1,
        "read_horizon": 2**62,
        "transaction_id": 2**40,
        "seq": 1,
        "limit": 1000,
        "last": 2**41,
        "at": NOW,
        "min_transaction_id": 0,
        "horizon": 2**40 - 1000,
        "after_transaction_id": 0,
        "after_seq": 0,
    }
    begin = datetime.now(UTC).replace(day=10, hour=0)
    day = {"from": begin, "to": begin + timedelta(days=1)}
    key = {f"cid_events_{month}_pkey"}
    some = {**group, "directory_result": None, "from": LEAST_ID, "below": GREATEST_ID, "limit": 101}
    return [
        Case(sets["vsyncs"], group | {"key_types": [1]}, {"cid_totals_folded_idx", "cid_totals_pkey"}),
        # In the order of cids or sorted, whichever is cheaper for the size of the group.
        Case(sets["cids_in_order"], group, set()),
        Case(
            sets["changed_since"],
            group | {"cids": cids, "change": 1, "since": NOW},
            {f"cid_events_{month}_cid_idx"},
        ),
        Case(sets["get_verification"], {"id": LEAST_ID}, {"vsync_verifications_pkey"}),
        Case(sets["list_verifications"], some, {"vsync_verifications_ispb_key_type_id_idx"}),
        Case(sets["last_event"], feed, key),
        Case(sets["find_event"], feed, key),
        Case(sets["count_events"], feed, key),
        Case(sets["events_after"], feed | group, key),
        Case(sets["range"], feed | group | day, {f"cid_events_{month}_created_at_idx"}),
        Case(sets["events_of_range"], feed | group | day, key),
    ]


PATHS: list[tuple[CidFilter, str]] = [
    (CidFilter(), "cids_pkey"),
    (CidFilter(key_type=5), "cids_pkey"),
    (CidFilter(ispb="12345678"), "cids_ispb_key_type_id_idx"),
    (CidFilter(ispb="00000048"), "cids_ispb_key_type_id_idx"),
    (CidFilter(ispb="12345678", key_type=1), "cids_ispb_key_type_id_idx"),
    (CidFilter(ispb="12345678", key_type=1, sync_status=2), "cids_ispb_key_type_id_idx"),
    (CidFilter(tax_id="00000000007"), "cids_tax_id_id_idx"),
    (CidFilter(tax_id="00000000007", sync_status=1, ispb="12345678"), "cids_tax_id_id_idx"),
    (CidFilter(sync_status=1), "cids_sync_status_id_idx"),
    (CidFilter(sync_status=3, ispb="12345678"), "cids_sync_status_id_idx"),
    (CidFilter(sync_status=2), "cids_pkey"),
    (CidFilter(created_after=NOW, created_before=NOW), "cids_pkey"),
]


def _paths(large: Database) -> list[Case]:
    """Returns the queries of ListCids and ExportCids for each kind of filter."""
    pool = Pool(settings_for(large.service_url))
    repository = CidRepository(pool, Mutations(pool))
    cases = []
    for selection, index in PATHS:
        path, exact = choose_access_path(selection)
        values = filter_parameters(selection, LEAST_ID) | {"scan": 101 if exact else 10_000, "size": 100}
        cases.append(Case(repository._list_query(path), values, {index}))
        export = with_access_path(queries("vsyncd.domains.cids", "vsync", columns=CID_COLUMNS)["export"], path)
        export = Query(f"{export.name} {selection}", export.sql.replace(b"/*SELECTED*/", b"id, cid"))
        # A filter that no index matches completely is read in the order of ids or sorted, whichever is cheaper.
        cases.append(Case(export, values, {index} if exact and path != "ispb" else set()))
    return cases


def test_each_query_uses_its_index_and_each_index_is_used(large: Database, subtests: pytest.Subtests) -> None:
    # Their tables have a handful of rows.
    tiny = {"job_runs_pkey", "cid_folds_pkey", "cache_epoch_pkey", "partitioned_tables_pkey"}
    check_plans(large, _cases(large), tables=tables_of("core", "vsync"), big=BIG, unused=tiny, subtests=subtests)
