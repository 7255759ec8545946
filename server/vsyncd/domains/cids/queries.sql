-- Many records come as one JSON array of objects: psycopg takes ten times as long over an array a column.

-- name: create_together
-- The creations of concurrent calls, each with its audit entry (which has the record's id) and its request's id. All or
-- nothing: on any clash, or when a request is known already, the members go again alone. A clash is looked for first, and
-- not left to the unique indexes: their error has the key in it, and a server that was not told otherwise logs that. A lock is waited for only
-- briefly: it is one member's business. The settings are read before anything is written, since all of it reads `input`.
WITH settings AS MATERIALIZED (
    SELECT set_config('lock_timeout', '50ms', true) AS lock_timeout, set_config('vsync.audit_id', 'record', true) AS audit_id
), input AS MATERIALIZED (
    SELECT i.*, "vsync".uuid_v7_time(i.id) AS created_at
    FROM settings, json_to_recordset(%(rows)s::json) AS i (
        id uuid, cid bytea, key_type smallint, key_value text, ispb text, branch text, account_number text,
        account_type smallint, tax_id text, dict_request_id uuid, correlation_id text, actor text,
        request_id uuid, fingerprint bytea)
    WHERE settings.lock_timeout IS NOT NULL AND settings.audit_id IS NOT NULL
), known AS (
    -- LATERAL with a LIMIT: one look into the index for each, whatever the planner knows of a table that just begins.
    SELECT FROM input CROSS JOIN LATERAL (
        SELECT FROM "vsync".request_ids AS r
        WHERE r.request_id = input.request_id AND r.actor = input.actor AND r.method = %(method)s
          AND r.week BETWEEN (now() AT TIME ZONE 'UTC')::date - 21 AND (now() AT TIME ZONE 'UTC')::date
        LIMIT 1
    ) AS r
    LIMIT 1
), taken AS (
    SELECT FROM input CROSS JOIN LATERAL (
        (SELECT 1 FROM "vsync".cids AS c WHERE c.cid = input.cid LIMIT 1)
        UNION ALL
        (SELECT 1 FROM "vsync".cids AS c WHERE c.key_value = input.key_value AND c.ispb = input.ispb LIMIT 1)
        LIMIT 1
    ) AS c
    LIMIT 1
), fresh AS MATERIALIZED (
    SELECT * FROM input WHERE NOT EXISTS (SELECT FROM known) AND NOT EXISTS (SELECT FROM taken)
), created AS (
    INSERT INTO "vsync".cids (id, created_at, updated_at, cid, key_type, key_value, ispb, branch, account_number,
                              account_type, tax_id, dict_request_id)
    SELECT id, created_at, created_at, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id,
           dict_request_id
    FROM fresh
    RETURNING 1
), audited AS (
    INSERT INTO "vsync".audit_logs (id, created_at, correlation_id, actor, action, ispb, key_value, cid)
    SELECT id, created_at, correlation_id, actor, %(method)s, ispb, key_value, cid FROM fresh
), requested AS (
    INSERT INTO "vsync".request_ids (request_id, week, actor, method, fingerprint, answer)
    SELECT request_id, week, actor, %(method)s, fingerprint, uuid_send(id)
    FROM fresh, (SELECT DISTINCT date_trunc('week', at AT TIME ZONE 'UTC')::date AS week
                 FROM unnest(ARRAY[clock_timestamp(), clock_timestamp() - interval '10 minutes']) AS at) AS weeks
    WHERE request_id IS NOT NULL
)
SELECT count(*) FROM created;

-- name: create_many
-- How many were inserted tells whether all were: what is there already is left alone, and looked up then.
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
-- xmax is 0 in a row that was inserted, the updating transaction's in one that was there.
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

-- name: find_clashes
-- Which of these are there already: by cid, or by key at an ispb.
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

-- What is read one by one comes behind a number of the server and database that it was read from, also when there is no
-- record: the cache keeps nothing from another one than the one that tells it of changes. The number is the server's start
-- in microseconds, with the database's oid in its upper half (`poll` in cache/queries.sql has the same one).

-- name: get_by_ids
SELECT (SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint # (oid::bigint << 31)
        FROM pg_database WHERE datname = current_database()),
       id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id, sync_status,
       created_at, updated_at, synced_at, last_error, revision
FROM (SELECT) AS one LEFT JOIN "vsync".cids ON id = ANY (%(id)s::uuid[]);

-- name: get_by_cids
SELECT (SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint # (oid::bigint << 31)
        FROM pg_database WHERE datname = current_database()),
       id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id, sync_status,
       created_at, updated_at, synced_at, last_error, revision
FROM (SELECT) AS one LEFT JOIN "vsync".cids ON cid = ANY (%(cid)s::bytea[]);

-- name: get_by_keys
SELECT (SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint # (oid::bigint << 31)
        FROM pg_database WHERE datname = current_database()),
       c.id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id, sync_status,
       created_at, updated_at, synced_at, last_error, revision
FROM (SELECT) AS one LEFT JOIN (
    unnest(%(key_value)s::text[], %(ispb)s::text[]) AS k (key_value, ispb)
    JOIN "vsync".cids AS c USING (key_value, ispb)
) ON true;

-- name: lock_by_id
SELECT id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id, sync_status,
       created_at, updated_at, synced_at, last_error, revision
FROM "vsync".cids WHERE id = %(id)s FOR UPDATE;

-- name: lock_by_cid
SELECT id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id, sync_status,
       created_at, updated_at, synced_at, last_error, revision
FROM "vsync".cids WHERE cid = %(cid)s FOR UPDATE;

-- name: lock_by_key
SELECT id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id, sync_status,
       created_at, updated_at, synced_at, last_error, revision
FROM "vsync".cids WHERE key_value = %(key_value)s AND ispb = %(ispb)s FOR UPDATE;

-- name: along_path
-- A way that leads along one index in the order of ids; the condition and the order in place of PATH and ORDER say which.
SELECT id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id,
       sync_status, created_at, updated_at, synced_at, last_error, revision
FROM "vsync".cids
WHERE /*PATH*/
ORDER BY /*ORDER*/ LIMIT %(scan)s;

-- name: along_ispb
-- The index is by ispb, key type and id: five ways along it, one a key type, merged. By range, as in paths.py.
SELECT c.*
FROM generate_series(1, 5) AS types (key_type) CROSS JOIN LATERAL (
    SELECT id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id,
           sync_status, created_at, updated_at, synced_at, last_error, revision
    FROM "vsync".cids
    WHERE (ispb, key_type, id) > (%(ispb)s, types.key_type::smallint, %(after)s)
      AND (ispb, key_type, id) < (%(ispb)s, types.key_type::smallint, %(before)s)
    ORDER BY ispb, key_type, id LIMIT %(scan)s
) AS c
ORDER BY id LIMIT %(scan)s;

-- name: list
-- What the way in place of SOURCE does not decide is filtered from at most `scan` rows: scan_end is the last of them.
WITH scanned AS MATERIALIZED (
/*SOURCE*/
), counted AS (
    SELECT count(*) AS rows FROM scanned
)
SELECT page.*, (SELECT id FROM scanned ORDER BY id DESC LIMIT 1) AS scan_end, counted.rows
FROM counted LEFT JOIN LATERAL (
    SELECT * FROM scanned
    WHERE (%(ispb)s::text IS NULL OR ispb = %(ispb)s)
      AND (%(key_type)s::smallint IS NULL OR key_type = %(key_type)s)
      AND (%(sync_status)s::smallint IS NULL OR sync_status = %(sync_status)s)
    ORDER BY id LIMIT %(size)s
) AS page ON true;

-- name: export
SELECT /*COLUMNS*/
FROM "vsync".cids
WHERE /*PATH*/
  AND (%(ispb)s::text IS NULL OR ispb = %(ispb)s)
  AND (%(key_type)s::smallint IS NULL OR key_type = %(key_type)s)
  AND (%(sync_status)s::smallint IS NULL OR sync_status = %(sync_status)s)
ORDER BY /*ORDER*/;

-- name: begin_export
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- name: snapshot_time
-- A statement may take as long as all of it, and the session may rest longer, while a reader is slow: who takes too long
-- is cut off by the service, with word of it. The server ends what is left of a process that hangs.
SELECT now(), set_config('statement_timeout', %(limit)s, true),
       set_config('idle_in_transaction_session_timeout', %(rest)s, true);

-- name: count
SELECT key_type, sync_status, sum(records)::bigint FROM "vsync".cid_sums
GROUP BY key_type, sync_status HAVING sum(records) <> 0
ORDER BY key_type, sync_status;

-- name: count_of_ispb
SELECT key_type, sync_status, sum(records)::bigint FROM "vsync".cid_sums
WHERE ispb = %(ispb)s
GROUP BY key_type, sync_status HAVING sum(records) <> 0
ORDER BY key_type, sync_status;

-- name: fold_totals
SELECT "vsync".fold_cid_totals();

-- name: cid_holder
SELECT id, revision FROM "vsync".cids WHERE cid = %(cid)s AND id <> %(id)s;

-- name: update
UPDATE "vsync".cids SET
    cid = %(cid)s, branch = %(branch)s, account_number = %(account_number)s, account_type = %(account_type)s,
    dict_request_id = %(dict_request_id)s::uuid, sync_status = 1, last_error = NULL,
    updated_at = %(now)s, revision = revision + 1
WHERE id = %(id)s;

-- name: update_sync_status
-- Locked in the order of cids, so that two such calls never wait for each other crosswise.
WITH locked AS (
    SELECT id FROM "vsync".cids WHERE cid = ANY (%(cid)s::bytea[]) ORDER BY cid FOR UPDATE
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
    SELECT id FROM "vsync".cids WHERE cid = ANY (%(cid)s::bytea[]) ORDER BY cid FOR UPDATE
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
-- One chunk of an import at a time, whoever sends it.
SELECT last_number, inserted, skipped, replaced, rejected, set_config('vsync.audit_id', %(audit_id)s, true)
FROM "vsync".imports WHERE import_id = %(import_id)s FOR UPDATE;

-- name: find_chunk
SELECT fingerprint, answer FROM "vsync".import_chunks WHERE import_id = %(import_id)s AND number = %(number)s;

-- name: keep_chunk
WITH totals AS (
    UPDATE "vsync".imports SET
        last_number = %(number)s, inserted = %(inserted)s, skipped = %(skipped)s, replaced = %(replaced)s,
        rejected = %(rejected)s, updated_at = now()
    WHERE import_id = %(import_id)s
), audited AS (
    INSERT INTO "vsync".audit_logs (id, created_at, correlation_id, actor, action, ispb, payload)
    VALUES (%(audit_id)s, %(audited_at)s, %(correlation_id)s, %(actor)s, %(action)s, %(ispb)s, %(payload)s)
)
INSERT INTO "vsync".import_chunks (import_id, number, fingerprint, answer)
VALUES (%(import_id)s, %(number)s, %(fingerprint)s, %(answer)s);
