-- name: begin_mutation
-- The settings hold until the transaction ends. vsync.audit_id is read by the triggers of cids.
SELECT set_config('vsync.audit_id', %(audit_id)s, true);

-- name: find_request
-- The bounds leave the partitions of other weeks alone: requests are kept for at least 7 days, at most 14.
SELECT fingerprint, answer FROM "vsync".request_ids
WHERE request_id = %(request_id)s AND actor = %(actor)s AND method = %(method)s
  AND week BETWEEN (now() AT TIME ZONE 'UTC')::date - 21 AND (now() AT TIME ZONE 'UTC')::date
LIMIT 1;

-- name: keep_request
-- Ten minutes after a week's begin it is written to the week before as well: a transaction of that week may still be in
-- flight, and only a unique index can see what is not committed.
INSERT INTO "vsync".request_ids (request_id, week, actor, method, fingerprint, answer)
SELECT DISTINCT %(request_id)s::uuid, date_trunc('week', at AT TIME ZONE 'UTC')::date, %(actor)s, %(method)s, %(fingerprint)s, %(answer)s
FROM unnest(ARRAY[clock_timestamp(), clock_timestamp() - interval '10 minutes']) AS at;

-- name: append_audit
INSERT INTO "vsync".audit_logs (id, created_at, correlation_id, actor, action, key_value, cid, payload)
VALUES (%(id)s, %(created_at)s, %(correlation_id)s, %(actor)s, %(action)s, %(key_value)s, %(cid)s, %(payload)s);

-- name: make_partitions
SELECT "vsync".make_partitions();
