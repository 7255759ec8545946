"""The queries of `cids` and the indexes that their plans must use."""

from datetime import UTC, datetime, timedelta
from json import dumps
from uuid import UUID

from vsyncd.core.scope import Scope
from vsyncd.domains.cids.access_paths import choose_access_path, filter_parameters
from vsyncd.domains.cids.exports import export_query
from vsyncd.domains.cids.records import CID_COLUMNS, CidFilter
from vsyncd.domains.cids.repository import CidRepository, in_scope
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.mutations import Mutations
from vsyncd.postgres.queries import queries

from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.query_plans import LEAST_ID, PlanCase
from tests.harness.serving import settings_for

NOW = datetime(2026, 11, 20, tzinfo=UTC)

# The ids are spread over the last 5,000 seconds. One record in ten is not SYNCED.
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
    """INSERT INTO vsync.cids (id, created_at, synced_at, cid, key_type, key_value, ispb, account_number, account_type,
                                tax_id, sync_status, last_error)
        SELECT id, now(), now(), sha256(id::text::bytea), 1 + n % 5, lpad(n::text, 36, 'k'),
               CASE WHEN n % 100 < 90 THEN '12345678' ELSE lpad((n % 50)::text, 8, '0') END, '1', 1,
               lpad((n % (records * 2 / 5))::text, 11, '0'),
               CASE WHEN n % 10 > 0 THEN 2 WHEN n % 20 = 0 THEN 1 ELSE 3 END,
               CASE WHEN n % 20 = 10 THEN 'no' END
        FROM (SELECT n, records, (lpad(to_hex(newest - 5000000 / records * (records - n)), 12, '0')
                         || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid AS id
              FROM (SELECT current_setting('test.records')::integer AS records,
                           floor(extract(epoch FROM now()) * 1000)::bigint AS newest) AS given,
                   generate_series(1, records) AS n) AS ids""",
    "DO $$ DECLARE what record; BEGIN FOR what IN SELECT ddl FROM later LOOP EXECUTE what.ddl; END LOOP; END $$",
    """INSERT INTO vsync.imports (import_id, actor, on_conflict, initial_sync_status, updated_at)
       SELECT lpad(to_hex(n), 32, '0')::uuid, 'a', 1, 1, now() - interval '1 day' * n
       FROM generate_series(1, 1500) AS n""",
    """INSERT INTO vsync.import_chunks (import_id, number, fingerprint, answer)
       SELECT import_id, n, decode(repeat('00', 16), 'hex'), '' FROM vsync.imports, generate_series(1, 20) AS n""",
    """INSERT INTO vsync.cid_totals (ispb, key_type, sync_status, records, folded)
       SELECT lpad(n::text, 8, '0'), k, s, 1, true
       FROM generate_series(1, 2000) AS n, generate_series(1, 5) AS k, generate_series(1, 3) AS s""",
    """INSERT INTO vsync.cid_changes (transaction_id, added, cids)
       SELECT n::text::xid8, false, cid
       FROM (SELECT row_number() OVER () AS n, cid FROM vsync.cids LIMIT 50000) AS c""",
)

# Their tables have a handful of rows.
UNUSED_INDEXES = {"cid_folds_pkey", "cache_epoch_pkey"}

# Two participants: one with most records, and one with few.
SCOPE = ["00000048", "12345678"]

ACCESS_PATHS: list[tuple[CidFilter, str]] = [
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
    (CidFilter(ispbs=SCOPE), "cids_ispb_key_type_id_idx"),
    (CidFilter(ispbs=SCOPE, key_type=1), "cids_ispb_key_type_id_idx"),
    (CidFilter(ispbs=SCOPE, sync_status=2), "cids_ispb_key_type_id_idx"),
    (CidFilter(ispbs=SCOPE, sync_status=1), "cids_sync_status_id_idx"),
    (CidFilter(ispbs=SCOPE, tax_id="00000000007"), "cids_tax_id_id_idx"),
    (CidFilter(created_after=NOW, created_before=NOW), "cids_pkey"),
]


def cases(database: Database) -> list[PlanCase]:
    """Returns the queries of CidService, and the poll of the cache for changed CIDs."""
    some = rows(database, "SELECT id, cid, key_value, ispb FROM vsync.cids ORDER BY id LIMIT 3")
    named = queries("vsyncd.domains.cids", "vsync", columns=CID_COLUMNS)
    one = {**some[0], "now": NOW}
    every_id, every_cid = {"id": [row["id"] for row in some]}, {"cid": [row["cid"] for row in some]}
    keys = {"key_value": [row["key_value"] for row in some], "ispb": [row["ispb"] for row in some]}
    import_id = {"import_id": UUID(int=1), "number": 3, "audit_id": str(one["id"])}
    json = {"rows": dumps([{"cid": "\\x" + one["cid"].hex(), "key_value": one["key_value"], "ispb": one["ispb"]}])}
    update = {**one, "branch": None, "account_number": "1", "account_type": 1, "dict_request_id": None}
    scoped = {"ispbs": SCOPE}
    status = {**every_cid, "sync_status": 2, "error": None, "now": NOW}
    return [
        PlanCase(named["get_by_ids"], every_id, {"cids_pkey"}),
        PlanCase(named["get_by_cids"], every_cid, {"cids_cid_key"}),
        PlanCase(named["get_by_keys"], keys, {"cids_key_value_ispb_key"}),
        PlanCase(named["lock_by_id"], one, {"cids_pkey"}),
        PlanCase(named["lock_by_cid"], one, {"cids_cid_key"}),
        PlanCase(named["lock_by_key"], one, {"cids_key_value_ispb_key"}),
        PlanCase(named["find_conflicts"], json, {"cids_cid_key", "cids_key_value_ispb_key"}),
        PlanCase(named["cids_of_other_keys"], json, {"cids_cid_key"}),
        PlanCase(named["cid_holder"], one, {"cids_cid_key"}),
        PlanCase(named["update"], update, {"cids_pkey"}),
        PlanCase(named["update_sync_status"], status, {"cids_cid_key", "cids_pkey"}),
        PlanCase(in_scope(named["update_sync_status"], Scope(frozenset(SCOPE))), status | scoped, {"cids_pkey"}),
        PlanCase(in_scope(named["delete_many"], Scope(frozenset(SCOPE))), every_cid | scoped, {"cids_pkey"}),
        PlanCase(named["delete"], one, {"cids_pkey"}),
        PlanCase(named["delete_many"], every_cid, {"cids_cid_key", "cids_pkey"}),
        # The planner cannot know that few of the deltas of cid_totals are newer than the last fold.
        PlanCase(
            named["count_of_ispb"], {"ispb": "00000007"}, {"cid_totals_folded_idx", "cid_totals_pkey"}, "cid_totals"
        ),
        PlanCase(named["count_of_ispbs"], {"ispbs": ["00000007"]}, {"cid_totals_folded_idx"}, "cid_totals"),
        PlanCase(named["find_import"], import_id, {"imports_pkey"}),
        PlanCase(named["lock_import"], import_id, {"imports_pkey"}),
        PlanCase(named["status_imports"], {"age": timedelta(minutes=2), "limit": 51}, {"imports_updated_at_idx"}),
        PlanCase(named["find_chunk"], import_id, {"import_chunks_pkey"}),
        # The last poll has seen all but the last changes, while two transactions were running.
        PlanCase(
            queries("vsyncd.cache", "vsync")["poll"],
            {"since": "49980:49990:49980,49985"},
            {"cid_changes_transaction_id_idx"},
        ),
        *_lists_and_exports(database),
    ]


def _lists_and_exports(database: Database) -> list[PlanCase]:
    """Returns the queries of ListCids and ExportCids for each kind of filter."""
    pool = Pool(settings_for(database.service_url))
    repository = CidRepository(pool, Mutations(pool))
    found = []
    for selection, index in ACCESS_PATHS:
        path, exact = choose_access_path(selection)
        values = filter_parameters(selection, LEAST_ID) | {"scan": 101 if exact else 10_000, "size": 100}
        found.append(PlanCase(repository._list_query(selection), values, {index}))
        template = queries("vsyncd.domains.cids", "vsync", columns=CID_COLUMNS)["export"]
        export = export_query(template, selection, cids_only=True)._replace(name=f"cids.export {selection}")
        # A filter that no index matches completely is read in the order of ids or sorted, whichever is cheaper.
        found.append(PlanCase(export, values, {index} if exact and path not in {"ispb", "ispbs"} else set()))
    return found
