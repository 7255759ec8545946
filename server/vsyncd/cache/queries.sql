-- name: poll
-- One statement, one snapshot: what it sees is what a place at it has seen. `since`: what was seen before. What it did not
-- see has a transaction from its xmax on, or one that was running then. Server and database are one number, as loads have it.
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
-- So that the server ends what nobody waits for any longer: one that only waits, for a lock, does not see that we have left.
SELECT set_config('statement_timeout', %(milliseconds)s, false);

-- name: begin_epoch
SELECT "vsync".begin_cache_epoch();

-- name: drop_changes
SELECT "vsync".drop_cid_changes();
