-- name: vsyncs
-- The sums of the last fold of each group, and the changes since. The visible sums are those with the highest
-- transaction_id: this condition finds them by the index, whatever the number of older sums.
SELECT %(ispb)s::text, key_type, coalesce(substring(bit_send(bit_xor(cid_xor)) FROM 5), decode(repeat('00', 32), 'hex')),
       coalesce(sum(records), 0)::bigint
FROM unnest(%(key_types)s::smallint[]) AS key_type LEFT JOIN LATERAL (
    SELECT records, cid_xor FROM "vsync".cid_totals AS t
    WHERE t.folded AND t.ispb = %(ispb)s AND t.key_type = key_type.key_type AND t.transaction_id = (
        SELECT transaction_id FROM "vsync".cid_totals AS newest
        WHERE newest.folded AND newest.ispb = %(ispb)s AND newest.key_type = key_type.key_type
        ORDER BY transaction_id DESC LIMIT 1)
    UNION ALL
    SELECT records, cid_xor FROM "vsync".cid_deltas AS d WHERE d.ispb = %(ispb)s AND d.key_type = key_type.key_type
) AS parts ON true
GROUP BY key_type ORDER BY key_type;

-- name: recompute
-- PostgreSQL 18 and later can cast bytea to integers, which takes half as long as bits.
SELECT coalesce(int8send(bit_xor(substring(cid, 1, 8)::int8)) || int8send(bit_xor(substring(cid, 9, 8)::int8))
                || int8send(bit_xor(substring(cid, 17, 8)::int8)) || int8send(bit_xor(substring(cid, 25, 8)::int8)),
                decode(repeat('00', 32), 'hex')), count(*)
FROM "vsync".cids WHERE ispb = %(ispb)s AND key_type = %(key_type)s;

-- name: recompute_by_bits
SELECT coalesce(substring(bit_send(bit_xor("vsync".cid_bits(cid))) FROM 5), decode(repeat('00', 32), 'hex')), count(*)
FROM "vsync".cids WHERE ispb = %(ispb)s AND key_type = %(key_type)s;

-- name: cids_in_order
SELECT cid FROM "vsync".cids WHERE ispb = %(ispb)s AND key_type = %(key_type)s ORDER BY cid;

-- name: changed_since
-- Which of these CIDs have an event ADDED (1) or REMOVED (2) as their first one since a time: the first event tells
-- whether a CID was in the set at that time. seq is assigned while the row's lock is held, so it orders the events of
-- one CID, which transaction_id does not. The feed of another cluster has its own sequence and is older.
-- LATERAL with LIMIT: one index lookup per CID, whatever number of events the planner expects.
SELECT wanted.cid
FROM unnest(%(cids)s::bytea[]) AS wanted (cid) CROSS JOIN LATERAL (
    SELECT change FROM "vsync".cid_events AS e
    WHERE e.cid = wanted.cid AND e.ispb = %(ispb)s AND e.key_type = %(key_type)s AND e.created_at >= %(since)s
    ORDER BY feed, seq LIMIT 1
) AS event
WHERE event.change = %(change)s;

-- name: verify
-- The counts and VSyncs of all groups by a full scan, and the kept ones, in one snapshot.
SELECT ispb, key_type, coalesce(substring(bit_send(bit_xor(cid_xor)) FROM 5), decode(repeat('00', 32), 'hex')),
       sum(records)::bigint, substring(bit_send(bit_xor(kept_xor)) FROM 5), sum(kept)::bigint,
       bool_and(records = kept AND cid_xor = kept_xor)
FROM (
    SELECT ispb, key_type, sync_status, sum(records) AS records, bit_xor(cid_xor) AS cid_xor,
           sum(kept) AS kept, bit_xor(kept_xor) AS kept_xor
    FROM (
        SELECT ispb, key_type, sync_status, count(*) AS records, bit_xor("vsync".cid_bits(cid)) AS cid_xor,
               0 AS kept, repeat('0', 256)::bit(256) AS kept_xor
        FROM "vsync".cids GROUP BY ispb, key_type, sync_status
        UNION ALL
        SELECT ispb, key_type, sync_status, 0, repeat('0', 256)::bit(256), records, cid_xor FROM "vsync".cid_sums
    ) AS both_sides
    GROUP BY ispb, key_type, sync_status
) AS statuses
GROUP BY ispb, key_type ORDER BY ispb, key_type;

-- name: rebuild
SELECT "vsync".rebuild_cid_totals();

-- name: record_verification
INSERT INTO "vsync".vsync_verifications (id, created_at, ispb, key_type, submitted_vsync, directory_result,
    directory_verification_id, directory_vsync, our_vsync, our_count, last_ok_at, actor)
SELECT %(id)s, %(created_at)s, %(ispb)s, %(key_type)s, %(submitted_vsync)s, %(directory_result)s,
    %(directory_verification_id)s, %(directory_vsync)s, %(our_vsync)s, %(our_count)s,
    (SELECT created_at FROM "vsync".vsync_verifications
     WHERE ispb = %(ispb)s AND key_type = %(key_type)s AND directory_result = 1 ORDER BY id DESC LIMIT 1), %(actor)s
RETURNING id, created_at, ispb, key_type, submitted_vsync, directory_result, directory_verification_id, directory_vsync,
    our_vsync, our_count, last_ok_at, actor;

-- name: get_verification
SELECT id, created_at, ispb, key_type, submitted_vsync, directory_result, directory_verification_id, directory_vsync,
       our_vsync, our_count, last_ok_at, actor
FROM "vsync".vsync_verifications WHERE id = %(id)s;

-- name: list_verifications
-- The conditions compare whole index entries, see cids/access_paths.py. Other results are filtered out of the range:
-- there are a few verifications per day.
SELECT id, created_at, ispb, key_type, submitted_vsync, directory_result, directory_verification_id, directory_vsync,
       our_vsync, our_count, last_ok_at, actor
FROM "vsync".vsync_verifications
WHERE (ispb, key_type, id) >= (%(ispb)s, %(key_type)s::smallint, %(from)s)
  AND (ispb, key_type, id) < (%(ispb)s, %(key_type)s::smallint, %(below)s)
  AND (%(directory_result)s::smallint IS NULL OR directory_result = %(directory_result)s)
ORDER BY ispb DESC, key_type DESC, id DESC LIMIT %(limit)s;

-- name: feed
-- The current feed, whether it belongs to this cluster (not until some time after a restore), the horizon (all
-- transactions below it have ended), and the start time of the server, which differs after a restore or promotion.
SELECT feed, feed_id, greatest(feed_began, 'epoch'), is_ours, pg_snapshot_xmin(pg_current_snapshot())::text::bigint, now(),
       pg_postmaster_start_time()
FROM "vsync".last_fold;

-- name: last_event
-- The last event of all groups below the horizon of the read, from a transaction id on. The subqueries hide the bounds
-- from the planner: it would expect all rows in the range, and sort them.
SELECT transaction_id::text::bigint, seq, created_at, horizon::text::bigint
FROM "vsync".cid_events
WHERE transaction_id BETWEEN (SELECT %(min_transaction_id)s::text::xid8) AND (SELECT %(read_horizon)s::text::xid8)
  AND transaction_id < %(read_horizon)s::text::xid8 AND feed = %(feed)s
ORDER BY transaction_id DESC, seq DESC LIMIT 1;

-- name: find_event
SELECT EXISTS (
    SELECT FROM "vsync".cid_events
    WHERE transaction_id = %(transaction_id)s::text::xid8 AND seq = %(seq)s AND created_at = %(at)s AND feed = %(feed)s);

-- name: count_events
-- The number of events of all groups after one event, up to another. The planner needs BETWEEN to use the index.
SELECT count(*)
FROM "vsync".cid_events
WHERE transaction_id BETWEEN %(horizon)s::text::xid8 AND %(transaction_id)s::text::xid8
  AND (transaction_id, seq) > (%(after_transaction_id)s::text::xid8, %(after_seq)s)
  AND (transaction_id, seq) <= (%(transaction_id)s::text::xid8, %(seq)s) AND feed = %(feed)s;

-- name: oldest_time
-- The start of the oldest partition of the events.
SELECT min((regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \('([^']+)'\)$$))[1]::timestamptz)
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = '"vsync".cid_events'::regclass AND NOT i.inhdetachpending;

-- name: events_after
-- In the order of the primary key, of the selected groups. ISPB stands for the condition on the participant.
SELECT transaction_id::text::bigint, seq, created_at, ispb, key_type, change, cid, audit_id, horizon::text::bigint
FROM "vsync".cid_events
WHERE (transaction_id, seq) > (%(transaction_id)s::text::xid8, %(seq)s)
  AND transaction_id < %(read_horizon)s::text::xid8 AND feed = %(feed)s
  AND /*ISPB*/ AND (%(key_type)s::smallint IS NULL OR key_type = %(key_type)s)
ORDER BY transaction_id, seq LIMIT %(limit)s;

-- name: events_of_range
-- In the order of the primary key, up to the last transaction of the range at its first page.
SELECT transaction_id::text::bigint, seq, created_at, ispb, key_type, change, cid, audit_id, horizon::text::bigint
FROM "vsync".cid_events
WHERE (transaction_id, seq) > (%(transaction_id)s::text::xid8, %(seq)s)
  AND transaction_id <= %(last)s::text::xid8 AND feed = %(feed)s
  AND ispb = %(ispb)s AND key_type = %(key_type)s AND created_at >= %(from)s AND created_at < %(to)s
ORDER BY transaction_id, seq LIMIT %(limit)s;

-- name: range
-- Of the events of a time range below the horizon of the read: the first and last transaction id, their XOR and the
-- number of CIDs that they added. The same of the events after them: later ones, and those not below the horizon.
-- Finally the number of events of the range.
SELECT (min(transaction_id::text::numeric) FILTER (WHERE inside))::bigint,
       (max(transaction_id::text::numeric) FILTER (WHERE inside))::bigint,
       coalesce(substring(bit_send(bit_xor("vsync".cid_bits(cid)) FILTER (WHERE inside)) FROM 5),
                decode(repeat('00', 32), 'hex')),
       coalesce(sum(CASE change WHEN 1 THEN 1 ELSE -1 END) FILTER (WHERE inside), 0)::bigint,
       coalesce(substring(bit_send(bit_xor("vsync".cid_bits(cid)) FILTER (WHERE NOT inside)) FROM 5),
                decode(repeat('00', 32), 'hex')),
       coalesce(sum(CASE change WHEN 1 THEN 1 ELSE -1 END) FILTER (WHERE NOT inside), 0)::bigint,
       count(*) FILTER (WHERE inside)
FROM (
    SELECT transaction_id, cid, change, created_at < %(to)s AND transaction_id < %(read_horizon)s::text::xid8 AS inside
    FROM "vsync".cid_events
    WHERE created_at >= %(from)s AND ispb = %(ispb)s AND key_type = %(key_type)s AND feed = %(feed)s
    UNION ALL
    SELECT transaction_id, cid, change, false
    FROM "vsync".cid_events
    WHERE created_at < %(from)s AND transaction_id >= %(read_horizon)s::text::xid8
      AND ispb = %(ispb)s AND key_type = %(key_type)s AND feed = %(feed)s
) AS events;

-- name: status_vsyncs
-- The VSync and the last verification of each group. `summed` and `verified` find the groups by one index lookup each;
-- they descend, so that the newest sums of a group come before the dead rows of earlier folds. The verdict's first answer
-- is the one after the last different answer: for NOK after the last OK, for OK after the last NOK.
WITH RECURSIVE summed AS (
    (SELECT ispb, key_type FROM "vsync".cid_totals WHERE folded
     ORDER BY ispb DESC, key_type DESC, transaction_id DESC LIMIT 1)
    UNION ALL
    SELECT next.ispb, next.key_type FROM summed CROSS JOIN LATERAL (
        SELECT ispb, key_type FROM "vsync".cid_totals AS t
        WHERE t.folded AND (t.ispb, t.key_type) < (summed.ispb, summed.key_type)
        ORDER BY ispb DESC, key_type DESC, transaction_id DESC LIMIT 1) AS next
), verified AS (
    (SELECT ispb, key_type FROM "vsync".vsync_verifications ORDER BY ispb DESC, key_type DESC, id DESC LIMIT 1)
    UNION ALL
    SELECT next.ispb, next.key_type FROM verified CROSS JOIN LATERAL (
        SELECT ispb, key_type FROM "vsync".vsync_verifications AS v
        WHERE (v.ispb, v.key_type) < (verified.ispb, verified.key_type)
        ORDER BY ispb DESC, key_type DESC, id DESC LIMIT 1) AS next
), deltas AS MATERIALIZED (
    SELECT ispb, key_type, sum(records) AS records, bit_xor(cid_xor) AS cid_xor FROM "vsync".cid_deltas
    GROUP BY ispb, key_type
), groups AS MATERIALIZED (
    SELECT ispb, key_type FROM summed UNION SELECT ispb, key_type FROM verified UNION SELECT ispb, key_type FROM deltas
    ORDER BY ispb, key_type LIMIT %(limit)s
)
SELECT g.ispb, g.key_type,
       substring(bit_send(coalesce(sums.cid_xor, zero.bits) # coalesce(deltas.cid_xor, zero.bits)) FROM 5),
       (coalesce(sums.records, 0) + coalesce(deltas.records, 0))::bigint,
       last.directory_result, first.created_at, last.created_at
FROM groups AS g CROSS JOIN (SELECT repeat('0', 256)::bit(256)) AS zero (bits) CROSS JOIN LATERAL (
    SELECT sum(records) AS records, bit_xor(cid_xor) AS cid_xor FROM "vsync".cid_totals AS t
    WHERE t.folded AND t.ispb = g.ispb AND t.key_type = g.key_type AND t.transaction_id = (
        SELECT transaction_id FROM "vsync".cid_totals AS newest
        WHERE newest.folded AND newest.ispb = g.ispb AND newest.key_type = g.key_type
        ORDER BY transaction_id DESC LIMIT 1)
) AS sums LEFT JOIN deltas ON deltas.ispb = g.ispb AND deltas.key_type = g.key_type LEFT JOIN LATERAL (
    SELECT directory_result, created_at, last_ok_at FROM "vsync".vsync_verifications AS v
    WHERE v.ispb = g.ispb AND v.key_type = g.key_type ORDER BY id DESC LIMIT 1
) AS last ON true LEFT JOIN LATERAL (
    SELECT created_at FROM "vsync".vsync_verifications AS v
    WHERE v.ispb = g.ispb AND v.key_type = g.key_type AND v.id > coalesce(CASE last.directory_result
        WHEN 2 THEN "vsync".uuid_v7_floor(last.last_ok_at + interval '1 ms')
        ELSE (SELECT id FROM "vsync".vsync_verifications AS nok
              WHERE nok.ispb = g.ispb AND nok.key_type = g.key_type AND nok.directory_result = 2
              ORDER BY nok.id DESC LIMIT 1)
        END, '00000000-0000-0000-0000-000000000000')
    ORDER BY id LIMIT 1
) AS first ON true
ORDER BY g.ispb, g.key_type;

-- name: measure
-- The groups by the result of their last verification, and the first time since which a group has no OK. The groups are
-- found by one index lookup each.
WITH RECURSIVE verified AS (
    (SELECT ispb, key_type FROM "vsync".vsync_verifications ORDER BY ispb, key_type LIMIT 1)
    UNION ALL
    SELECT next.ispb, next.key_type FROM verified CROSS JOIN LATERAL (
        SELECT ispb, key_type FROM "vsync".vsync_verifications AS v
        WHERE (v.ispb, v.key_type) > (verified.ispb, verified.key_type) ORDER BY v.ispb, v.key_type LIMIT 1
    ) AS next
)
SELECT last.directory_result, count(*), min(not_ok.created_at)
FROM verified AS g CROSS JOIN LATERAL (
    SELECT directory_result FROM "vsync".vsync_verifications
    WHERE ispb = g.ispb AND key_type = g.key_type ORDER BY id DESC LIMIT 1
) AS last LEFT JOIN LATERAL (
    SELECT created_at FROM "vsync".vsync_verifications
    WHERE ispb = g.ispb AND key_type = g.key_type AND id > coalesce(
        (SELECT id FROM "vsync".vsync_verifications
         WHERE ispb = g.ispb AND key_type = g.key_type AND directory_result = 1 ORDER BY id DESC LIMIT 1),
        '00000000-0000-0000-0000-000000000000')
    ORDER BY id LIMIT 1
) AS not_ok ON true
GROUP BY last.directory_result;
