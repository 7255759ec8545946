-- name: begin_mutation
-- The settings hold until the transaction ends. The triggers of cids read the first one, row-level security the second.
SELECT set_config('vsync.audit_id', %(audit_id)s, true), set_config('vsync.tenant', %(tenant)s, true);

-- name: tenant_key
SELECT fingerprint FROM "vsync".tenant_key;

-- name: store_tenant_key
INSERT INTO "vsync".tenant_key (fingerprint) VALUES (%(fingerprint)s) ON CONFLICT DO NOTHING;

-- name: find_request
-- The bounds exclude the partitions of other weeks. Request ids are kept for 7 to 14 days.
SELECT fingerprint, answer FROM "vsync".request_ids
WHERE request_id = %(request_id)s AND actor = %(actor)s AND method = %(method)s
  AND week BETWEEN (now() AT TIME ZONE 'UTC')::date - 21 AND (now() AT TIME ZONE 'UTC')::date
LIMIT 1;

-- name: keep_request
-- During the first ten minutes of a week the id is also written to the previous week: a transaction of that week may still
-- be running, and only a unique index detects an uncommitted row.
INSERT INTO "vsync".request_ids (request_id, week, actor, method, fingerprint, answer)
SELECT DISTINCT %(request_id)s::uuid, date_trunc('week', at AT TIME ZONE 'UTC')::date, %(actor)s, %(method)s, %(fingerprint)s, %(answer)s
FROM unnest(ARRAY[clock_timestamp(), clock_timestamp() - interval '10 minutes']) AS at;

-- name: wait_for_standbys
-- Writes a message to the log, because the commit of a transaction without writes does not wait for synchronous standbys.
-- Returns NULL on a standby, where nothing can be written.
SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_logical_emit_message(true, 'vsyncd', '') END;

-- name: append_audit
INSERT INTO "vsync".audit_logs (id, created_at, correlation_id, recorded_by, action, resource, ispb, key_value, cid, payload)
VALUES (%(id)s, %(created_at)s, %(correlation_id)s, %(actor)s, %(action)s, %(resource)s, %(ispb)s, %(key_value)s, %(cid)s,
        %(payload)s);

-- name: mutate
-- See single_statement.py. `fresh` are the mutations whose request id is unknown. Only mutations whose change was made get
-- an audit entry and a request id row. Returns the audit ids of the others, or NULL: usually there are none; and what
-- `returning` adds. The lock timeout is short, because a lock concerns only one member of the batch. The settings take
-- effect before anything is written, because all inserts depend on `input`.
WITH settings AS MATERIALIZED (
    SELECT set_config('lock_timeout', '50ms', true) AS lock_timeout, set_config('vsync.audit_id', 'record', true) AS audit_id
), input AS MATERIALIZED (
    SELECT i.*, "vsync".uuid_v7_time(i.audit_id) AS created_at
    FROM settings, json_to_recordset(%(rows)s::json) AS i (
        audit_id uuid, method text, correlation_id text, actor text, request_id uuid, fingerprint bytea, answer bytea,
        audit_resource text, audit_ispb text, audit_key_value text, audit_cid bytea, audit_payload jsonb, /*columns*/)
    WHERE settings.lock_timeout IS NOT NULL AND settings.audit_id IS NOT NULL
), fresh AS MATERIALIZED (
    SELECT * FROM input WHERE NOT EXISTS (
        SELECT FROM "vsync".request_ids AS r
        WHERE r.request_id = input.request_id AND r.actor = input.actor AND r.method = input.method
          AND r.week BETWEEN (now() AT TIME ZONE 'UTC')::date - 21 AND (now() AT TIME ZONE 'UTC')::date
        -- OFFSET keeps the planner from a join: one index lookup per row, whatever it knows about a new partition.
        OFFSET 0)
), /*before*/changed AS (
    /*change*/
), applied AS MATERIALIZED (
    SELECT fresh.* FROM fresh JOIN changed ON changed.key = fresh./*key*/
), audited AS (
    INSERT INTO "vsync".audit_logs (id, created_at, correlation_id, recorded_by, action, resource, ispb, key_value, cid, payload)
    SELECT audit_id, created_at, correlation_id, actor, method, audit_resource, audit_ispb, audit_key_value, audit_cid,
           audit_payload
    FROM applied
), requested AS (
    INSERT INTO "vsync".request_ids (request_id, week, actor, method, fingerprint, answer)
    SELECT request_id, week, actor, method, fingerprint, answer
    FROM applied, (SELECT DISTINCT date_trunc('week', at AT TIME ZONE 'UTC')::date AS week
                   FROM unnest(ARRAY[clock_timestamp(), clock_timestamp() - interval '10 minutes']) AS at) AS weeks
    WHERE request_id IS NOT NULL
)
SELECT array_agg(audit_id), (/*returning*/) FROM input
WHERE NOT EXISTS (SELECT FROM applied WHERE applied.audit_id = input.audit_id);

-- name: look
-- Returns: whether the server is in recovery; whether it is read-only; the position written or replayed; its timeline (a
-- standby knows the timeline of its last restartpoint); the seconds for which it has had something to replay; its start
-- time; and its insert position. A standby never replays past the insert position of its primary, but its position can be
-- past the written position after a segment switch.
SELECT recovery, current_setting('transaction_read_only') = 'on',
       (CASE WHEN recovery THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_lsn() END - '0/0')::bigint,
       CASE WHEN recovery THEN (SELECT timeline_id FROM pg_control_checkpoint())
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
       CASE WHEN recovery AND pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()
            THEN greatest(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)::float8
            ELSE 0::float8 END,
       extract(epoch FROM pg_postmaster_start_time())::float8,
       (CASE WHEN NOT recovery THEN pg_current_wal_insert_lsn() - '0/0' ELSE 0 END)::bigint
FROM pg_is_in_recovery() AS recovery;

-- name: position
-- Returns the log position after a commit: everything that the transaction wrote is before it.
SELECT (lsn - '0/0')::bigint, ('x' || substr(pg_walfile_name(lsn), 1, 8))::bit(32)::int
FROM pg_current_wal_insert_lsn() AS lsn;

-- name: begin_snapshot
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- name: snapshot_time
-- The settings hold until the transaction ends: a pooler would pass a setting of the session to the next client. The
-- transaction may be idle while a client reads slowly. In milliseconds; 0 is no limit.
SELECT now(), set_config('statement_timeout', %(statement_timeout)s, true),
       set_config('idle_in_transaction_session_timeout', %(idle_timeout)s, true);

-- name: find_job_run
SELECT now(), holder, lease_until, last_started, last_finished, last_succeeded, last_error
FROM (SELECT %(name)s::text AS name) AS asked LEFT JOIN "vsync".job_runs USING (name);

-- name: claim_job_run
-- Claims the run if no other instance started or holds it since it was read. A lease longer than the maximum was written
-- while a clock was ahead, and does not count.
INSERT INTO "vsync".job_runs AS run (name, holder, lease_until, last_started)
VALUES (%(name)s, %(holder)s, now() + %(lease)s, now())
ON CONFLICT (name) DO UPDATE SET
    holder = excluded.holder, lease_until = excluded.lease_until, last_started = excluded.last_started
WHERE (run.last_started IS NOT DISTINCT FROM %(last_started)s::timestamptz
       AND (run.lease_until IS NULL OR run.lease_until <= now() OR run.lease_until > now() + %(most)s))
      OR run.holder = excluded.holder
RETURNING last_started;

-- name: renew_job_run
UPDATE "vsync".job_runs SET lease_until = now() + %(lease)s WHERE name = %(name)s AND holder = %(holder)s;

-- name: release_job_run
UPDATE "vsync".job_runs SET holder = NULL, lease_until = NULL WHERE name = %(name)s AND holder = %(holder)s;

-- name: finish_job_run
UPDATE "vsync".job_runs SET
    holder = NULL, lease_until = NULL, last_finished = clock_timestamp(), last_error = %(error)s::text,
    last_succeeded = CASE WHEN %(error)s::text IS NULL THEN clock_timestamp() ELSE last_succeeded END
WHERE name = %(name)s AND holder = %(holder)s;
