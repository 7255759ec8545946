-- name: poll
-- One statement, so one snapshot: a watermark at this snapshot sees exactly these changes. `since` is the snapshot of the
-- current watermark. Changes that it does not see belong to transactions from its xmax on, or to those in its xip. The
-- server's start time and the database's oid are combined into one number, as in the queries that load records.
SELECT pg_current_snapshot()::text, e.secret, one.oid::bigint, '"vsync".cid_changes'::regclass::oid::bigint,
       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint # (one.oid::bigint << 31),
       e.dropped::text::bigint, e.born::text, c.added, c.cids, c.keys, c.ids
FROM (SELECT oid FROM pg_database WHERE datname = current_database()) AS one
LEFT JOIN "vsync".cache_epoch AS e ON true
LEFT JOIN LATERAL (
    SELECT added, cids, keys, ids FROM "vsync".cid_changes
    WHERE transaction_id >= pg_snapshot_xmax(%(since)s::pg_snapshot)
    UNION ALL
    SELECT added, cids, keys, ids FROM "vsync".cid_changes
    WHERE transaction_id IN (SELECT pg_snapshot_xip(%(since)s::pg_snapshot))
    LIMIT 2000
) AS c ON true;

-- name: limit_poll
-- Makes the server end a poll that timed out. While it waits for a lock it does not notice that the client has left.
SELECT set_config('statement_timeout', %(milliseconds)s, false);

-- name: begin_epoch
SELECT "vsync".begin_cache_epoch();

-- name: drop_changes
SELECT "vsync".drop_cid_changes();
