-- Many records are passed as one JSON array of objects: psycopg needs ten times as long for one array per column.
-- /*columns*/ stands for the columns of CidRecord.

-- name: create
-- The change of CreateCid's single statement (see vsyncd.postgres.single_statement). A record has its audit entry's id.
INSERT INTO "vsync".cids (id, created_at, updated_at, cid, key_type, key_value, ispb, branch, account_number,
                          account_type, tax_id, dict_request_id)
SELECT audit_id, created_at, created_at, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id,
       dict_request_id
FROM fresh
ON CONFLICT DO NOTHING
RETURNING id AS key;

-- name: create_many
-- Inserts the records that do not exist yet, and returns their ids.
INSERT INTO "vsync".cids (id, created_at, updated_at, cid, key_type, key_value, ispb, branch, account_number,
                          account_type, tax_id, dict_request_id, sync_status, synced_at)
SELECT id, at, at, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id,
       %(sync_status)s, CASE WHEN %(sync_status)s = 2 THEN at END
FROM json_to_recordset(%(rows)s::json) AS i (
    id uuid, cid bytea, key_type smallint, key_value text, ispb text, branch text, account_number text,
    account_type smallint, tax_id text, dict_request_id uuid
), LATERAL "vsync".uuid_v7_time(id) AS at
ORDER BY cid
ON CONFLICT DO NOTHING
RETURNING id;

-- name: replace_many
-- Returns whether each record was inserted: xmax is 0 in a new row, and the id of this transaction in an updated one.
INSERT INTO "vsync".cids AS c (id, created_at, updated_at, cid, key_type, key_value, ispb, branch, account_number,
                               account_type, tax_id, dict_request_id, sync_status, synced_at)
SELECT id, at, at, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id,
       %(sync_status)s, CASE WHEN %(sync_status)s = 2 THEN at END
FROM json_to_recordset(%(rows)s::json) AS i (
    id uuid, cid bytea, key_type smallint, key_value text, ispb text, branch text, account_number text,
    account_type smallint, tax_id text, dict_request_id uuid
), LATERAL "vsync".uuid_v7_time(id) AS at
ORDER BY key_value, ispb
ON CONFLICT (key_value, ispb) DO UPDATE SET
    cid = excluded.cid, key_type = excluded.key_type, branch = excluded.branch,
    account_number = excluded.account_number, account_type = excluded.account_type, tax_id = excluded.tax_id,
    dict_request_id = excluded.dict_request_id, sync_status = excluded.sync_status, synced_at = excluded.synced_at,
    last_error = NULL, updated_at = excluded.updated_at, revision = c.revision + 1
RETURNING xmax = 0;

-- name: find_conflicts
-- Returns the existing records with the cid, or the key and ispb, of one of the new records.
SELECT c.id, c.cid, c.key_value, c.ispb, c.revision
FROM json_to_recordset(%(rows)s::json) AS i (cid bytea) JOIN "vsync".cids AS c USING (cid)
UNION
SELECT c.id, c.cid, c.key_value, c.ispb, c.revision
FROM json_to_recordset(%(rows)s::json) AS i (key_value text, ispb text) JOIN "vsync".cids AS c USING (key_value, ispb);

-- name: cids_of_other_keys
SELECT c.cid
FROM json_to_recordset(%(rows)s::json) AS i (cid bytea, key_value text, ispb text)
JOIN "vsync".cids AS c USING (cid)
WHERE (c.key_value, c.ispb) <> (i.key_value, i.ispb);

-- name: copy_in
COPY "vsync".cids (id, created_at, updated_at, synced_at, key_type, account_type, sync_status, cid, key_value, ispb,
                   branch, account_number, tax_id, dict_request_id) FROM STDIN (FORMAT BINARY);

-- The first column of the next three queries identifies the server and database, also if no record exists: the cache
-- stores only records of the server whose changes it follows. The number is the server's start time in microseconds,
-- with the database's oid in the upper half (as in `poll` of cache/queries.sql).

-- name: get_by_ids
SELECT (SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint # (oid::bigint << 31)
        FROM pg_database WHERE datname = current_database()),
       /*columns*/
FROM (SELECT) AS one LEFT JOIN "vsync".cids ON id = ANY (%(id)s::uuid[]);

-- name: get_by_cids
SELECT (SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint # (oid::bigint << 31)
        FROM pg_database WHERE datname = current_database()),
       /*columns*/
FROM (SELECT) AS one LEFT JOIN "vsync".cids ON cid = ANY (%(cid)s::bytea[]);

-- name: get_by_keys
SELECT (SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint # (oid::bigint << 31)
        FROM pg_database WHERE datname = current_database()),
       /*columns*/
FROM (SELECT) AS one LEFT JOIN (
    unnest(%(key_value)s::text[], %(ispb)s::text[]) AS k (key_value, ispb) JOIN "vsync".cids USING (key_value, ispb)
) ON true;

-- name: lock_by_id
SELECT /*columns*/ FROM "vsync".cids WHERE id = %(id)s FOR UPDATE;

-- name: lock_by_cid
SELECT /*columns*/ FROM "vsync".cids WHERE cid = %(cid)s FOR UPDATE;

-- name: lock_by_key
SELECT /*columns*/ FROM "vsync".cids WHERE key_value = %(key_value)s AND ispb = %(ispb)s FOR UPDATE;

-- name: along_path
-- Reads one index in the order of ids. access_paths.py replaces PATH and ORDER.
SELECT /*columns*/ FROM "vsync".cids
WHERE /*PATH*/
ORDER BY /*ORDER*/ LIMIT %(scan)s;

-- name: along_ispb
-- The index is on ispb, key type and id: one range per key type, merged. See access_paths.py for the conditions.
SELECT c.*
FROM generate_series(1, 5) AS types (key_type) CROSS JOIN LATERAL (
    SELECT /*columns*/ FROM "vsync".cids
    WHERE (ispb, key_type, id) > (%(ispb)s, types.key_type::smallint, %(after)s)
      AND (ispb, key_type, id) < (%(ispb)s, types.key_type::smallint, %(before)s)
    ORDER BY ispb, key_type, id LIMIT %(scan)s
) AS c
ORDER BY id LIMIT %(scan)s;

-- name: along_ispbs
-- The same for several participants.
SELECT c.*
FROM unnest(%(ispbs)s::text[]) AS participants (ispb) CROSS JOIN generate_series(1, 5) AS types (key_type)
CROSS JOIN LATERAL (
    SELECT /*columns*/ FROM "vsync".cids
    WHERE (ispb, key_type, id) > (participants.ispb, types.key_type::smallint, %(after)s)
      AND (ispb, key_type, id) < (participants.ispb, types.key_type::smallint, %(before)s)
    ORDER BY ispb, key_type, id LIMIT %(scan)s
) AS c
WHERE %(key_type)s::smallint IS NULL OR types.key_type = %(key_type)s
ORDER BY id LIMIT %(scan)s;

-- name: list
-- Filters at most `scan` rows of the access path, which replaces SOURCE. scan_end is the id of the last scanned row. ISPB
-- stands for the condition of access_paths.py on the participant.
WITH scanned AS MATERIALIZED (
/*SOURCE*/
), counted AS (
    SELECT count(*) AS rows FROM scanned
)
SELECT page.*, (SELECT id FROM scanned ORDER BY id DESC LIMIT 1) AS scan_end, counted.rows
FROM counted LEFT JOIN LATERAL (
    SELECT * FROM scanned
    WHERE /*ISPB*/
      AND (%(key_type)s::smallint IS NULL OR key_type = %(key_type)s)
      AND (%(sync_status)s::smallint IS NULL OR sync_status = %(sync_status)s)
    ORDER BY id LIMIT %(size)s
) AS page ON true;

-- name: export
SELECT /*SELECTED*/
FROM "vsync".cids
WHERE /*PATH*/
  AND /*ISPB*/
  AND (%(key_type)s::smallint IS NULL OR key_type = %(key_type)s)
  AND (%(sync_status)s::smallint IS NULL OR sync_status = %(sync_status)s)
ORDER BY /*ORDER*/;

-- name: count
SELECT key_type, sync_status, sum(records)::bigint FROM "vsync".cid_sums
GROUP BY key_type, sync_status HAVING sum(records) <> 0
ORDER BY key_type, sync_status;

-- name: count_of_ispb
SELECT key_type, sync_status, sum(records)::bigint FROM "vsync".cid_sums
WHERE ispb = %(ispb)s
GROUP BY key_type, sync_status HAVING sum(records) <> 0
ORDER BY key_type, sync_status;

-- name: count_of_ispbs
SELECT key_type, sync_status, sum(records)::bigint FROM "vsync".cid_sums
WHERE ispb = ANY (%(ispbs)s::text[])
GROUP BY key_type, sync_status HAVING sum(records) <> 0
ORDER BY key_type, sync_status;

-- name: fold_totals
SELECT "vsync".fold_cid_totals();

-- name: cid_holder
SELECT id, revision, ispb FROM "vsync".cids WHERE cid = %(cid)s AND id <> %(id)s;

-- name: update
UPDATE "vsync".cids SET
    cid = %(cid)s, branch = %(branch)s, account_number = %(account_number)s, account_type = %(account_type)s,
    dict_request_id = %(dict_request_id)s::uuid, sync_status = 1, last_error = NULL,
    updated_at = %(now)s, revision = revision + 1
WHERE id = %(id)s;

-- name: update_sync_status
-- Locks the records in the order of cids, so that two such calls do not deadlock. SCOPE stands for a condition on the
-- participant if the caller's scope is restricted.
WITH locked AS (
    SELECT id FROM "vsync".cids WHERE cid = ANY (%(cid)s::bytea[])/*SCOPE*/ ORDER BY cid FOR UPDATE
)
UPDATE "vsync".cids AS c SET
    sync_status = %(sync_status)s::smallint, last_error = %(error)s, updated_at = %(now)s, revision = revision + 1,
    synced_at = CASE WHEN %(sync_status)s::smallint = 2 THEN %(now)s ELSE synced_at END
FROM locked WHERE c.id = locked.id
RETURNING c.cid, c.ispb;

-- name: delete
DELETE FROM "vsync".cids WHERE id = %(id)s;

-- name: delete_many
WITH locked AS (
    SELECT id FROM "vsync".cids WHERE cid = ANY (%(cid)s::bytea[])/*SCOPE*/ ORDER BY cid FOR UPDATE
)
DELETE FROM "vsync".cids AS c USING locked WHERE c.id = locked.id
RETURNING c.cid, c.ispb;

-- name: open_import
INSERT INTO "vsync".imports (import_id, actor, on_conflict, initial_sync_status)
VALUES (%(import_id)s, %(actor)s, %(on_conflict)s, %(initial_sync_status)s)
ON CONFLICT DO NOTHING;

-- name: find_import
SELECT actor, on_conflict, initial_sync_status, last_number, inserted, skipped, replaced, rejected
FROM "vsync".imports WHERE import_id = %(import_id)s;

-- name: lock_import
-- Serializes the chunks of an import.
SELECT last_number, inserted, skipped, replaced, rejected, set_config('vsync.audit_id', %(audit_id)s, true)
FROM "vsync".imports WHERE import_id = %(import_id)s FOR UPDATE;

-- name: find_chunk
SELECT fingerprint, answer FROM "vsync".import_chunks WHERE import_id = %(import_id)s AND number = %(number)s;

-- name: finish_chunk
WITH totals AS (
    UPDATE "vsync".imports SET
        last_number = %(number)s, inserted = %(inserted)s, skipped = %(skipped)s, replaced = %(replaced)s,
        rejected = %(rejected)s, updated_at = now()
    WHERE import_id = %(import_id)s
), audited AS (
    INSERT INTO "vsync".audit_logs (id, created_at, correlation_id, recorded_by, action, ispb, payload)
    VALUES (%(audit_id)s, %(audited_at)s, %(correlation_id)s, %(actor)s, %(action)s, %(ispb)s, %(payload)s)
)
INSERT INTO "vsync".import_chunks (import_id, number, fingerprint, answer)
VALUES (%(import_id)s, %(number)s, %(fingerprint)s, %(answer)s);

-- name: status_imports
-- The imports of which a chunk was committed lately.
SELECT import_id, inserted, skipped, replaced, rejected, created_at, updated_at FROM "vsync".imports
WHERE updated_at > now() - %(age)s::interval ORDER BY updated_at DESC LIMIT %(limit)s;
