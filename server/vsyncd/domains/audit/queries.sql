-- name: append
-- One statement for one entry and for a thousand.
INSERT INTO "vsync".audit_logs (id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload)
SELECT id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload::jsonb
FROM unnest(%(ids)s::uuid[], %(created_ats)s::timestamptz[], %(correlation_ids)s::text[], %(recorded_bys)s::text[],
            %(on_behalf_ofs)s::text[], %(actions)s::text[], %(resources)s::text[], %(ispbs)s::text[], %(key_values)s::text[], %(cids)s::bytea[],
            %(payloads)s::text[])
    AS new (id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload)
RETURNING id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload;

-- name: get
SELECT id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload
FROM "vsync".audit_logs WHERE id = %(id)s;

-- name: get_all
-- The bounds exclude the partitions of other months.
SELECT id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload
FROM "vsync".audit_logs
WHERE id = ANY(%(ids)s::uuid[]) AND id BETWEEN %(first)s AND %(last)s
ORDER BY id;

-- Lists are newest first, from the id `below` (exclusive) to the id `from` (inclusive). A time range is an id range and
-- selects the partitions. Within a partition, an index of (column, id) is read backwards.

-- name: list_by
SELECT id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload
FROM "vsync".audit_logs
WHERE /*COLUMN*/ = %(value)s AND id >= %(from)s AND id < %(below)s
ORDER BY id DESC LIMIT %(limit)s;

-- name: list_by_ispb
-- A participant may have most entries or hardly any. Row comparisons and the order make the planner use the index of
-- (ispb, id) for both, instead of reading the primary key until it has found enough entries. They do not exclude
-- partitions: each partition outside the range costs one index lookup.
SELECT id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload
FROM "vsync".audit_logs
WHERE ispb IS NOT NULL AND (ispb, id) >= (%(value)s, %(from)s) AND (ispb, id) < (%(value)s, %(below)s)
ORDER BY ispb DESC, id DESC LIMIT %(limit)s;

-- name: list_by_cid
-- The entries that name the CID, and the imports and batches that added or removed it. The second part leaves out entries
-- of the first. A CID has a handful of events, so the second part reads all of them before LIMIT.
(SELECT id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload
 FROM "vsync".audit_logs
 WHERE cid = %(value)s AND id >= %(from)s AND id < %(below)s
 ORDER BY id DESC LIMIT %(limit)s)
UNION ALL
(SELECT logs.id, logs.created_at, correlation_id, recorded_by, on_behalf_of, action, resource, logs.ispb, key_value, logs.cid, payload
 FROM (SELECT DISTINCT audit_id FROM "vsync".cid_events
       WHERE cid = %(value)s AND audit_id >= %(from)s AND audit_id < %(below)s) AS events
 JOIN "vsync".audit_logs AS logs ON logs.id = events.audit_id
 WHERE logs.id >= %(from)s AND logs.id < %(below)s AND logs.cid IS DISTINCT FROM %(value)s
 ORDER BY logs.id DESC LIMIT %(limit)s)
ORDER BY id DESC LIMIT %(limit)s;

-- name: list_by_actor
-- The entries that a principal recorded, and those that others recorded on behalf of it.
(SELECT id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload
 FROM "vsync".audit_logs
 WHERE recorded_by = %(value)s AND id >= %(from)s AND id < %(below)s
 ORDER BY id DESC LIMIT %(limit)s)
UNION ALL
(SELECT id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload
 FROM "vsync".audit_logs
 WHERE on_behalf_of = %(value)s AND recorded_by <> %(value)s AND id >= %(from)s AND id < %(below)s
 ORDER BY id DESC LIMIT %(limit)s)
ORDER BY id DESC LIMIT %(limit)s;

-- name: list_filtered
-- A list with the filter ispb, or of the participants of a restricted scope (ISPB). The source, one of the lists above, reads at most `limit` entries. The first two columns
-- are the lowest id that it read and how many it read.
WITH scanned AS MATERIALIZED (/*SOURCE*/)
SELECT scan.end_id, scan.entries, e.id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb, key_value, cid, payload
FROM (SELECT (array_agg(id ORDER BY id))[1] AS end_id, count(*) AS entries FROM scanned) AS scan
LEFT JOIN (SELECT * FROM scanned WHERE /*ISPB*/ ORDER BY id DESC LIMIT %(size)s) AS e ON true
ORDER BY e.id DESC;
