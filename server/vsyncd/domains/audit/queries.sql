-- name: append
-- One statement for one entry and for a thousand.
INSERT INTO "vsync".audit_logs (id, created_at, correlation_id, actor, action, key_value, cid, payload)
SELECT id, created_at, correlation_id, actor, action, key_value, cid, payload::jsonb
FROM unnest(%(ids)s::uuid[], %(created_ats)s::timestamptz[], %(correlation_ids)s::text[], %(actors)s::text[],
            %(actions)s::text[], %(key_values)s::text[], %(cids)s::bytea[], %(payloads)s::text[])
    AS new (id, created_at, correlation_id, actor, action, key_value, cid, payload)
RETURNING id, created_at, correlation_id, actor, action, key_value, cid, payload;

-- name: get
SELECT id, created_at, correlation_id, actor, action, key_value, cid, payload
FROM "vsync".audit_logs WHERE id = %(id)s;

-- name: get_all
-- The bounds leave the partitions of other months alone.
SELECT id, created_at, correlation_id, actor, action, key_value, cid, payload
FROM "vsync".audit_logs
WHERE id = ANY(%(ids)s::uuid[]) AND id BETWEEN %(first)s AND %(last)s
ORDER BY id;

-- The lists: newest first, from the id `below` (exclusive) down to the id `from` (inclusive). A time range is an id
-- range, which also says which partitions are read; within one, an index of (what is asked for, id) is read backwards.

-- name: list_by_correlation_id
SELECT id, created_at, correlation_id, actor, action, key_value, cid, payload
FROM "vsync".audit_logs
WHERE correlation_id = %(value)s AND id >= %(from)s AND id < %(below)s
ORDER BY id DESC LIMIT %(limit)s;

-- name: list_by_key_value
SELECT id, created_at, correlation_id, actor, action, key_value, cid, payload
FROM "vsync".audit_logs
WHERE key_value = %(value)s AND id >= %(from)s AND id < %(below)s
ORDER BY id DESC LIMIT %(limit)s;

-- name: list_by_action
SELECT id, created_at, correlation_id, actor, action, key_value, cid, payload
FROM "vsync".audit_logs
WHERE action = %(value)s AND id >= %(from)s AND id < %(below)s
ORDER BY id DESC LIMIT %(limit)s;

-- name: list_by_actor
SELECT id, created_at, correlation_id, actor, action, key_value, cid, payload
FROM "vsync".audit_logs
WHERE actor = %(value)s AND id >= %(from)s AND id < %(below)s
ORDER BY id DESC LIMIT %(limit)s;

-- name: list_by_cid
-- What names the cid, and what added or removed it in an import or a batch; an entry that does both stands in the
-- first part only. A cid has a handful of events, so the second part is found whole before it is cut.
(SELECT id, created_at, correlation_id, actor, action, key_value, cid, payload
 FROM "vsync".audit_logs
 WHERE cid = %(value)s AND id >= %(from)s AND id < %(below)s
 ORDER BY id DESC LIMIT %(limit)s)
UNION ALL
(SELECT logs.id, logs.created_at, correlation_id, actor, action, key_value, logs.cid, payload
 FROM (SELECT DISTINCT audit_id FROM "vsync".cid_events
       WHERE cid = %(value)s AND audit_id >= %(from)s AND audit_id < %(below)s) AS events
 JOIN "vsync".audit_logs AS logs ON logs.id = events.audit_id
 WHERE logs.id >= %(from)s AND logs.id < %(below)s AND logs.cid IS DISTINCT FROM %(value)s
 ORDER BY logs.id DESC LIMIT %(limit)s)
ORDER BY id DESC LIMIT %(limit)s;
