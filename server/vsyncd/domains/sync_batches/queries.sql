-- name: lock_batches
-- Held by whoever adds a batch to the open ones: no row can be locked for one that is not there yet.
SELECT pg_advisory_xact_lock(hashtextextended('vsyncd sync_batches "vsync"', 0));

-- name: lock_batch
-- Alone with a batch. Advisory and not the row's lock: those who share it come without end while workers poll, and a
-- row's lock would let them pass by somebody who waits to be alone; here they queue. It also costs no write.
SELECT pg_advisory_xact_lock(hashtextextended('vsyncd sync_batch "vsync" ' || %(id)s::text, 0));

-- name: share_batch
-- Beside others who leave the batch's state alone, but after one's own twin, if there is a request's id: a claim that
-- found what its twin had left, and was committed first, would answer for both.
SELECT pg_advisory_xact_lock(hashtextextended('vsyncd request "vsync" ' || %(request_id)s::text, 0)),
       pg_advisory_xact_lock_shared(hashtextextended('vsyncd sync_batch "vsync" ' || %(id)s::text, 0));

-- name: batch_state
-- The clock of every lease is the database's.
SELECT status, statement_timestamp() FROM "vsync".sync_batches WHERE id = %(id)s;

-- name: insert_batch
INSERT INTO "vsync".sync_batches (id, batch_date, ispb, created_at, updated_at)
VALUES (%(id)s, %(batch_date)s, %(ispb)s, %(created_at)s, %(created_at)s)
ON CONFLICT (batch_date, ispb) DO NOTHING
RETURNING id;

-- name: overlapping_batch
-- Another batch over some of the same CIDs that is open (PENDING, STARTING, RUNNING); or else one that was given up
-- (FAILED) with leases that still hold, and when the last of them runs out.
SELECT b.id, leases.latest
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
-- The page below a position, which is a day and an ispb: the unique index read backwards.
SELECT b.id, b.ispb, b.batch_date, b.status, b.total_records, b.synced_records, b.failed_records, b.skipped_records,
       leases.held, b.started_at, b.completed_at, b.error_message, b.revision, b.created_at, b.updated_at, leases.oldest
FROM (
    SELECT * FROM "vsync".sync_batches
    WHERE batch_date >= %(from_day)s AND (batch_date, ispb) < (%(below_day)s::date, %(below_ispb)s::text)
      AND (%(ispb)s = '' OR ispb = %(ispb)s)
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
      AND (%(ispb)s = '' OR ispb = %(ispb)s)
    ORDER BY batch_date DESC, ispb DESC LIMIT %(size)s
) AS b CROSS JOIN LATERAL (
    SELECT count(*) AS held, min(lease_until) AS oldest FROM "vsync".sync_batch_records
    WHERE batch_id = b.id AND outcome IS NULL AND lease_until > statement_timestamp()
) AS leases
ORDER BY b.batch_date DESC, b.ispb DESC;

-- name: set_status
-- Back to PENDING, the intake begins anew: CIDs behind the cursor may have become PENDING since.
UPDATE "vsync".sync_batches SET
    status = %(status)s::smallint, error_message = %(error_message)s,
    started_at = CASE %(status)s::smallint WHEN 3 THEN coalesce(started_at, statement_timestamp()) ELSE started_at END,
    completed_at = CASE %(status)s::smallint WHEN 4 THEN statement_timestamp() END,
    intake_cursor = CASE %(status)s::smallint WHEN 1 THEN '00000000-0000-0000-0000-000000000000' ELSE intake_cursor END,
    updated_at = statement_timestamp(), revision = revision + 1
WHERE id = %(id)s;

-- name: last_pending_cid
-- Ordered by the status too, which is PENDING (1) in every row: only the partial index has that order, however many
-- PENDING CIDs the planner expects. By the primary key it could read the whole table for the last of a few old ones.
SELECT id FROM "vsync".cids WHERE sync_status <= 1 ORDER BY sync_status DESC, id DESC LIMIT 1;

-- name: take_in
-- One step of the intake: the next PENDING CIDs, whoever's they are, so that a step reads a bounded number of rows.
-- How many it looked at (there may be more), and how many it took in. The row comparisons, and the status in the
-- order: as above.
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
-- What was never leased, then what ran out first. SKIP LOCKED: no worker waits for another. A row that another worker
-- claimed since this statement began is looked at again under its lock, and left out. What is gone (no id) is skipped;
-- of the rest is noted what is handed out, so that a report can be told from one of what came after.
WITH free AS MATERIALIZED (
    SELECT cid FROM "vsync".sync_batch_records
    WHERE batch_id = %(batch_id)s AND outcome IS NULL AND lease_until <= %(now)s
    ORDER BY lease_until LIMIT %(most)s
    FOR UPDATE SKIP LOCKED
), found AS MATERIALIZED (
    SELECT free.cid AS record, c.id, c.cid, c.key_type, c.key_value, c.ispb, c.branch, c.account_number, c.account_type,
           c.tax_id, c.dict_request_id, c.sync_status, c.created_at, c.updated_at, c.synced_at, c.last_error, c.revision
    FROM free LEFT JOIN "vsync".cids AS c ON c.cid = free.cid
), claimed AS (
    UPDATE "vsync".sync_batch_records AS r SET
        claim_token = CASE WHEN found.id IS NOT NULL THEN %(claim_token)s::uuid END,
        claimed_id = found.id, claimed_revision = found.revision,
        lease_until = %(lease_until)s, outcome = CASE WHEN found.id IS NULL THEN 3 END
    FROM found WHERE r.batch_id = %(batch_id)s AND r.cid = found.record
    RETURNING found.*
)
SELECT id, cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id, sync_status,
       created_at, updated_at, synced_at, last_error, revision
FROM claimed
ORDER BY record;

-- name: skip_gone
-- Of the next free records those whose CIDs are gone; the others are not even locked. Who meets another who does the
-- same waits for him, and leaves what he skipped.
WITH next AS MATERIALIZED (
    SELECT cid FROM "vsync".sync_batch_records
    WHERE batch_id = %(batch_id)s AND outcome IS NULL AND lease_until <= %(now)s
    ORDER BY lease_until LIMIT %(step)s
), gone AS MATERIALIZED (
    -- One by one, by the index: with NOT EXISTS the planner may read all CIDs.
    SELECT cid FROM next
        LEFT JOIN LATERAL (SELECT true AS there FROM "vsync".cids WHERE cid = next.cid LIMIT 1) AS c ON true
    WHERE there IS NULL
), locked AS MATERIALIZED (
    -- Whether they are free is looked at below: here the planner may go through all that are.
    SELECT r.cid, r.outcome, r.lease_until
    FROM gone JOIN "vsync".sync_batch_records AS r ON r.batch_id = %(batch_id)s AND r.cid = gone.cid
    ORDER BY r.cid FOR UPDATE OF r
)
UPDATE "vsync".sync_batch_records AS r SET outcome = 3
FROM locked
WHERE r.batch_id = %(batch_id)s AND r.cid = locked.cid AND locked.outcome IS NULL AND locked.lease_until <= %(now)s;

-- name: claimed_records
-- As they were handed out, or as their report left them: what was changed since, no report would be of.
SELECT c.id, c.cid, c.key_type, c.key_value, c.ispb, c.branch, c.account_number, c.account_type, c.tax_id,
       c.dict_request_id, c.sync_status, c.created_at, c.updated_at, c.synced_at, c.last_error, c.revision
FROM "vsync".sync_batch_records AS r JOIN "vsync".cids AS c ON c.id = r.claimed_id
WHERE r.claim_token = %(claim_token)s
  AND c.revision = r.claimed_revision + CASE WHEN r.outcome IN (1, 2) THEN 1 ELSE 0 END
ORDER BY c.cid;

-- name: batch_of_claim
-- A claim's token is the id of its audit entry: also a claim that holds nothing any more is known, and told from a
-- token that never was one.
SELECT (payload ->> 'batch_id')::uuid FROM "vsync".audit_logs WHERE id = %(claim_token)s AND action = %(action)s;

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
-- Which CIDs have their result now; the others are gone, or are not what was claimed: changed since, also when changed
-- back, or created anew under the same cid. Locked in the order of cids, as everywhere.
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
-- One step of a retry; whoever calls this is alone with the batch. The old claim is forgotten: what it reports again
-- is stale.
WITH failed AS MATERIALIZED (
    SELECT cid FROM "vsync".sync_batch_records WHERE batch_id = %(id)s AND outcome = 2 LIMIT %(step)s
), opened AS (
    UPDATE "vsync".sync_batch_records AS r SET
        outcome = NULL, claim_token = NULL, claimed_id = NULL, claimed_revision = NULL, lease_until = '-infinity'
    FROM failed WHERE r.batch_id = %(id)s AND r.cid = failed.cid
), locked AS MATERIALIZED (
    -- The status is looked at below: here the planner would go through all FAILED CIDs when it expects few.
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
