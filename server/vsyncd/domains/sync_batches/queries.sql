-- name: lock_batches
-- Taken before a batch becomes open: a row that does not exist yet cannot be locked.
SELECT pg_advisory_xact_lock(hashtextextended('vsyncd sync_batches "vsync"', 0));

-- name: lock_batch
-- An advisory lock instead of a row lock, because it is fair: with a row lock, polling workers that share the lock would
-- overtake a transaction that waits for the exclusive lock. It also needs no write.
SELECT pg_advisory_xact_lock(hashtextextended('vsyncd sync_batch "vsync" ' || %(id)s::text, 0));

-- name: lock_batch_shared
-- Executions of the same request_id exclude each other: otherwise the second could claim other records and commit first,
-- and its answer would become the answer of both.
SELECT pg_advisory_xact_lock(hashtextextended('vsyncd request "vsync" ' || %(request_id)s::text, 0)),
       pg_advisory_xact_lock_shared(hashtextextended('vsyncd sync_batch "vsync" ' || %(id)s::text, 0));

-- name: batch_status
-- All leases use the database's clock.
SELECT status, statement_timestamp(), ispb FROM "vsync".sync_batches WHERE id = %(id)s;

-- name: insert_batch
INSERT INTO "vsync".sync_batches (id, batch_date, ispb, created_at, updated_at)
VALUES (%(id)s, %(batch_date)s, %(ispb)s, %(created_at)s, %(created_at)s)
ON CONFLICT (batch_date, ispb) DO NOTHING
RETURNING id;

-- name: overlapping_batch
-- Another batch with some of the same CIDs that is open (PENDING, STARTING, RUNNING), or else one that is FAILED and has
-- active leases, and the end of its last lease.
SELECT b.id, leases.latest, b.ispb
FROM "vsync".sync_batches AS b CROSS JOIN LATERAL (
    SELECT max(lease_until) AS latest FROM "vsync".sync_batch_records
    WHERE b.status = 5 AND batch_id = b.id AND outcome IS NULL AND lease_until > statement_timestamp()
) AS leases
WHERE b.status IN (1, 2, 3, 5) AND b.id <> %(id)s AND (b.ispb = %(ispb)s OR b.ispb = '' OR %(ispb)s = '')
  AND (b.status <> 5 OR leases.latest IS NOT NULL)
ORDER BY b.status = 5, leases.latest DESC, b.id LIMIT 1;

-- name: batch_id_by_key
SELECT id FROM "vsync".sync_batches WHERE batch_date = %(batch_date)s AND ispb = %(ispb)s;

-- name: batch_by_id
SELECT b.id, b.ispb, b.batch_date, b.status, b.total_records, b.synced_records, b.failed_records, b.skipped_records,
       leases.held, b.started_at, b.completed_at, b.error_message, b.revision, b.created_at, b.updated_at, leases.oldest
FROM "vsync".sync_batches AS b CROSS JOIN LATERAL (
    SELECT count(*) AS held, min(lease_until) AS oldest FROM "vsync".sync_batch_records
    WHERE batch_id = b.id AND outcome IS NULL AND lease_until > statement_timestamp()
) AS leases
WHERE b.id = %(id)s;

-- name: list_batches
-- The page below a position (a day and an ispb), read backwards from the unique index. ISPB stands for the condition on
-- the participant.
SELECT b.id, b.ispb, b.batch_date, b.status, b.total_records, b.synced_records, b.failed_records, b.skipped_records,
       leases.held, b.started_at, b.completed_at, b.error_message, b.revision, b.created_at, b.updated_at, leases.oldest
FROM (
    SELECT * FROM "vsync".sync_batches
    WHERE batch_date >= %(from_day)s AND (batch_date, ispb) < (%(below_day)s::date, %(below_ispb)s::text)
      AND /*ISPB*/
    ORDER BY batch_date DESC, ispb DESC LIMIT %(size)s
) AS b CROSS JOIN LATERAL (
    SELECT count(*) AS held, min(lease_until) AS oldest FROM "vsync".sync_batch_records
    WHERE batch_id = b.id AND outcome IS NULL AND lease_until > statement_timestamp()
) AS leases
ORDER BY b.batch_date DESC, b.ispb DESC;

-- name: list_batches_by_status
SELECT b.id, b.ispb, b.batch_date, b.status, b.total_records, b.synced_records, b.failed_records, b.skipped_records,
       leases.held, b.started_at, b.completed_at, b.error_message, b.revision, b.created_at, b.updated_at, leases.oldest
FROM (
    SELECT * FROM "vsync".sync_batches
    WHERE status = %(status)s
      AND batch_date >= %(from_day)s AND (batch_date, ispb) < (%(below_day)s::date, %(below_ispb)s::text)
      AND /*ISPB*/
    ORDER BY batch_date DESC, ispb DESC LIMIT %(size)s
) AS b CROSS JOIN LATERAL (
    SELECT count(*) AS held, min(lease_until) AS oldest FROM "vsync".sync_batch_records
    WHERE batch_id = b.id AND outcome IS NULL AND lease_until > statement_timestamp()
) AS leases
ORDER BY b.batch_date DESC, b.ispb DESC;

-- name: set_status
-- In status PENDING the intake starts again: CIDs before the cursor may have become PENDING.
UPDATE "vsync".sync_batches SET
    status = %(status)s::smallint, error_message = %(error_message)s,
    started_at = CASE %(status)s::smallint WHEN 3 THEN coalesce(started_at, statement_timestamp()) ELSE started_at END,
    completed_at = CASE %(status)s::smallint WHEN 4 THEN statement_timestamp() END,
    intake_cursor = CASE %(status)s::smallint WHEN 1 THEN '00000000-0000-0000-0000-000000000000' ELSE intake_cursor END,
    updated_at = statement_timestamp(), revision = revision + 1
WHERE id = %(id)s;

-- name: last_pending_cid
-- Also ordered by the status, which is PENDING (1) in all rows: only the partial index has this order. With the primary
-- key, PostgreSQL could read the whole table to find the last of a few old CIDs.
SELECT id FROM "vsync".cids WHERE sync_status <= 1 ORDER BY sync_status DESC, id DESC LIMIT 1;

-- name: take_in
-- One step of the intake: examines the next PENDING CIDs of all participants, so that it reads a bounded number of rows.
-- Returns the number of examined CIDs and of those added. The order and the row comparisons are as above.
WITH step AS MATERIALIZED (
    SELECT c.id, c.cid, c.ispb
    FROM "vsync".cids AS c
    WHERE c.sync_status <= 1 AND (c.sync_status, c.id) <= (1::smallint, %(last)s::uuid)
      AND (c.sync_status, c.id) > (1::smallint, (SELECT intake_cursor FROM "vsync".sync_batches WHERE id = %(id)s))
    ORDER BY c.sync_status, c.id LIMIT %(step)s
), taken AS (
    INSERT INTO "vsync".sync_batch_records (batch_id, cid)
    SELECT %(id)s, cid FROM step WHERE %(ispb)s = '' OR ispb = %(ispb)s
    ON CONFLICT DO NOTHING
    RETURNING 1
), counted AS (
    UPDATE "vsync".sync_batches SET
        intake_cursor = coalesce((SELECT id FROM step ORDER BY id DESC LIMIT 1), intake_cursor),
        total_records = total_records + (SELECT count(*) FROM taken), updated_at = statement_timestamp()
    WHERE id = %(id)s
)
SELECT (SELECT count(*) FROM step), (SELECT count(*) FROM taken);

-- name: claim
-- Records that were never leased first, then those whose lease expired first. SKIP LOCKED: no worker waits for another.
-- PostgreSQL checks the conditions again after it has locked a row, so records that another worker has claimed meanwhile
-- are left out. Records whose CIDs were deleted (no id) are skipped. The id and revision of the others are stored, so
-- that a report is only applied to the CID that was claimed.
WITH free AS MATERIALIZED (
    SELECT cid AS record FROM "vsync".sync_batch_records
    WHERE batch_id = %(batch_id)s AND outcome IS NULL AND lease_until <= %(now)s
    ORDER BY lease_until LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), found AS MATERIALIZED (
    SELECT record, /*cid_columns*/ FROM free LEFT JOIN "vsync".cids ON cid = record
), claimed AS (
    UPDATE "vsync".sync_batch_records AS r SET
        claim_token = CASE WHEN found.id IS NOT NULL THEN %(claim_token)s::uuid END,
        claimed_id = found.id, claimed_revision = found.revision,
        lease_until = %(lease_until)s, outcome = CASE WHEN found.id IS NULL THEN 3 END
    FROM found WHERE r.batch_id = %(batch_id)s AND r.cid = found.record
    RETURNING found.*
)
SELECT /*cid_columns*/ FROM claimed ORDER BY record;

-- name: skip_deleted
-- Skips those of the next free records whose CIDs were deleted, and locks only these. A concurrent execution waits, and
-- leaves out the records that this one has skipped.
WITH next AS MATERIALIZED (
    SELECT cid FROM "vsync".sync_batch_records
    WHERE batch_id = %(batch_id)s AND outcome IS NULL AND lease_until <= %(now)s
    ORDER BY lease_until LIMIT %(step)s
), deleted AS MATERIALIZED (
    -- One index lookup per record: with NOT EXISTS the planner may read all CIDs.
    SELECT cid FROM next
        LEFT JOIN LATERAL (SELECT true AS found FROM "vsync".cids WHERE cid = next.cid LIMIT 1) AS c ON true
    WHERE found IS NULL
), locked AS MATERIALIZED (
    -- The UPDATE below checks whether they are free: here the planner might read all free records.
    SELECT r.cid, r.outcome, r.lease_until
    FROM deleted JOIN "vsync".sync_batch_records AS r ON r.batch_id = %(batch_id)s AND r.cid = deleted.cid
    ORDER BY r.cid FOR UPDATE OF r
)
UPDATE "vsync".sync_batch_records AS r SET outcome = 3
FROM locked
WHERE r.batch_id = %(batch_id)s AND r.cid = locked.cid AND locked.outcome IS NULL AND locked.lease_until <= %(now)s;

-- name: claimed_records
-- The CIDs as they were claimed, or as their report has changed them. CIDs with other changes are left out, because no
-- report would be applied to them.
SELECT /*cid_columns*/
FROM "vsync".cids JOIN (
    SELECT claimed_id, claimed_revision, outcome FROM "vsync".sync_batch_records WHERE claim_token = %(claim_token)s
) AS r ON id = claimed_id
WHERE revision = claimed_revision + CASE WHEN outcome IN (1, 2) THEN 1 ELSE 0 END
ORDER BY cid;

-- name: batch_of_claim
-- A claim's token is the id of its audit entry, so a claim without records is distinguished from an unknown token.
-- The token of another caller's claim is unknown.
SELECT (payload ->> 'batch_id')::uuid, ispb FROM "vsync".audit_logs
WHERE id = %(claim_token)s AND action = %(action)s AND recorded_by = %(caller)s;

-- name: extend
WITH held AS MATERIALIZED (
    SELECT batch_id, cid FROM "vsync".sync_batch_records
    WHERE claim_token = %(claim_token)s AND outcome IS NULL
    ORDER BY cid FOR UPDATE
)
UPDATE "vsync".sync_batch_records AS r SET lease_until = %(lease_until)s
FROM held WHERE r.batch_id = held.batch_id AND r.cid = held.cid;

-- name: release
WITH held AS MATERIALIZED (
    SELECT batch_id, cid FROM "vsync".sync_batch_records
    WHERE claim_token = %(claim_token)s AND outcome IS NULL
    ORDER BY cid FOR UPDATE
)
UPDATE "vsync".sync_batch_records AS r SET
    claim_token = NULL, claimed_id = NULL, claimed_revision = NULL, lease_until = '-infinity'
FROM held WHERE r.batch_id = held.batch_id AND r.cid = held.cid;

-- name: lock_records
SELECT cid, claim_token, outcome, claimed_id, claimed_revision FROM "vsync".sync_batch_records
WHERE batch_id = %(batch_id)s AND cid = ANY (%(cids)s::bytea[])
ORDER BY cid FOR UPDATE;

-- name: apply_results
-- Returns the CIDs that were updated. The others were deleted, changed since the claim (also if changed back), or created
-- again with the same cid. The records are locked in the order of cids, as everywhere.
WITH locked AS MATERIALIZED (
    SELECT id, cid, revision FROM "vsync".cids WHERE cid = ANY (%(cids)s::bytea[]) ORDER BY cid FOR NO KEY UPDATE
)
UPDATE "vsync".cids AS c SET
    sync_status = result.sync_status, last_error = result.error,
    synced_at = CASE result.sync_status WHEN 2 THEN at.now ELSE synced_at END,
    updated_at = at.now, revision = c.revision + 1
FROM locked
JOIN unnest(%(cids)s::bytea[], %(ids)s::uuid[], %(revisions)s::bigint[], %(statuses)s::smallint[], %(errors)s::text[])
    AS result (cid, id, revision, sync_status, error)
    ON result.cid = locked.cid AND result.id = locked.id AND result.revision = locked.revision
CROSS JOIN (SELECT date_trunc('milliseconds', statement_timestamp()) AS now) AS at
WHERE c.id = locked.id
RETURNING c.cid;

-- name: settle_records
UPDATE "vsync".sync_batch_records AS r SET outcome = settled.outcome
FROM unnest(%(cids)s::bytea[], %(outcomes)s::smallint[]) AS settled (cid, outcome)
WHERE r.batch_id = %(batch_id)s AND r.cid = settled.cid;

-- name: count_settled
UPDATE "vsync".sync_batches SET
    synced_records = synced_records + %(synced)s, failed_records = failed_records + %(failed)s,
    skipped_records = skipped_records + %(skipped)s, updated_at = statement_timestamp()
WHERE id = %(batch_id)s;

-- name: reopen_failed
-- One step of a retry, which holds the batch's exclusive lock. The records lose their claim, so its reports are stale.
WITH failed AS MATERIALIZED (
    SELECT cid FROM "vsync".sync_batch_records WHERE batch_id = %(id)s AND outcome = 2 LIMIT %(step)s
), opened AS (
    UPDATE "vsync".sync_batch_records AS r SET
        outcome = NULL, claim_token = NULL, claimed_id = NULL, claimed_revision = NULL, lease_until = '-infinity'
    FROM failed WHERE r.batch_id = %(id)s AND r.cid = failed.cid
), locked AS MATERIALIZED (
    -- The UPDATE below checks the status: here the planner would read all FAILED CIDs if it expects few.
    SELECT c.id, c.sync_status FROM failed JOIN "vsync".cids AS c ON c.cid = failed.cid
    ORDER BY c.cid FOR NO KEY UPDATE OF c
), pending AS (
    UPDATE "vsync".cids AS c SET
        sync_status = 1, last_error = NULL, revision = c.revision + 1,
        updated_at = date_trunc('milliseconds', statement_timestamp())
    FROM locked WHERE c.id = locked.id AND locked.sync_status = 3
), counted AS (
    UPDATE "vsync".sync_batches
    SET failed_records = failed_records - (SELECT count(*) FROM failed), updated_at = statement_timestamp()
    WHERE id = %(id)s
)
SELECT count(*) FROM failed;

-- name: status_batches
-- Today's batches, those of earlier days that are open, and those of the last days that are FAILED. The day is that of
-- the directory. UNION reads each part from its index.
SELECT b.id, b.ispb, b.batch_date, b.status, b.total_records, b.synced_records, b.failed_records, b.skipped_records,
       leases.held, b.started_at, b.completed_at, b.updated_at, leases.oldest, statement_timestamp()
FROM (
    SELECT id FROM "vsync".sync_batches WHERE batch_date >= (now() AT TIME ZONE 'America/Sao_Paulo')::date
    UNION
    SELECT id FROM "vsync".sync_batches WHERE status IN (1, 2, 3)
    UNION
    SELECT id FROM "vsync".sync_batches WHERE status = 5 AND batch_date >= current_date - %(failed_days)s::integer
) AS shown JOIN "vsync".sync_batches AS b USING (id) CROSS JOIN LATERAL (
    SELECT count(*) AS held, min(lease_until) AS oldest FROM "vsync".sync_batch_records
    WHERE batch_id = b.id AND outcome IS NULL AND lease_until > statement_timestamp()
) AS leases
ORDER BY b.batch_date DESC, b.ispb LIMIT %(limit)s;

-- name: failure_reasons
-- Of some failed records of each batch: the code that the error begins with. What follows may contain personal data, and
-- so may a first word without an underscore, or with more than three digits.
SELECT batch.id, coalesce(substring(c.last_error FROM '^([A-Z]+(?:_[A-Z]+|_[0-9]{1,3})+)(?![A-Za-z0-9_.@+-])'), 'OTHER'),
       count(*)
FROM unnest(%(batch_ids)s::uuid[]) AS batch (id) CROSS JOIN LATERAL (
    SELECT cid FROM "vsync".sync_batch_records WHERE batch_id = batch.id AND outcome = 2 LIMIT %(per_batch)s
) AS failed CROSS JOIN LATERAL (
    SELECT last_error FROM "vsync".cids WHERE cid = failed.cid AND last_error IS NOT NULL LIMIT 1
) AS c
GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2;

-- name: measure
-- The number of open batches by status, their records by result, the oldest change of a started batch, and the end of
-- the oldest lease.
SELECT count(*) FILTER (WHERE status = 1), count(*) FILTER (WHERE status = 2), count(*) FILTER (WHERE status = 3),
       coalesce(sum(total_records - synced_records - failed_records - skipped_records), 0)::bigint,
       coalesce(sum(synced_records), 0)::bigint, coalesce(sum(failed_records), 0)::bigint,
       coalesce(sum(skipped_records), 0)::bigint, min(updated_at) FILTER (WHERE status > 1), min(lease.oldest)
FROM "vsync".sync_batches AS b LEFT JOIN LATERAL (
    SELECT lease_until AS oldest FROM "vsync".sync_batch_records
    WHERE batch_id = b.id AND outcome IS NULL AND lease_until > '-infinity' ORDER BY lease_until LIMIT 1
) AS lease ON true
WHERE b.status IN (1, 2, 3);
