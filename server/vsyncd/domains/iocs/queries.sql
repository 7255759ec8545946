-- Every statement has a tenant predicate, and row-level security restricts it to the same tenant.

-- name: put
-- The arrays are texts with separators (see repository.py). In the order of keys, so that two batches with the same IOCs do not deadlock. A row that has expired is replaced by a new
-- IOC. clock_timestamp(), because the statement may have waited for another one.
INSERT INTO "vsync".iocs AS i (tenant, audit_id, created_at, expires_at, type, confidence, value, source, tags)
SELECT %(tenant)s, %(audit_id)s, %(created_at)s, now() + ttl_us * interval '1 microsecond', type, confidence, value, source,
       coalesce(string_to_array(tags, E'\x1e'), '{}')
FROM unnest(string_to_array(%(types)s, E'\x1f')::smallint[], string_to_array(%(values)s, E'\x1f'),
            string_to_array(%(confidences)s, E'\x1f')::smallint[], string_to_array(%(sources)s, E'\x1f'),
            string_to_array(%(tags)s, E'\x1f'), string_to_array(%(ttls_us)s, E'\x1f')::bigint[])
     AS new (type, value, confidence, source, tags, ttl_us)
ORDER BY type, value COLLATE "C"
ON CONFLICT (tenant, type, value) DO UPDATE SET
    audit_id = excluded.audit_id, confidence = excluded.confidence, source = excluded.source, tags = excluded.tags,
    expires_at = excluded.expires_at,
    revision = CASE WHEN i.expires_at <= clock_timestamp() THEN 1 ELSE i.revision + 1 END,
    created_at = CASE WHEN i.expires_at <= clock_timestamp() THEN excluded.created_at ELSE i.created_at END
WHERE i.tenant = %(tenant)s
RETURNING type, value, revision, created_at, expires_at;

-- name: get
SELECT /*columns*/ FROM "vsync".iocs
WHERE tenant = %(tenant)s AND type = %(type)s AND value = %(value)s AND expires_at > now();

-- name: check
SELECT value, confidence FROM "vsync".iocs
WHERE tenant = %(tenant)s AND type = %(type)s AND value = ANY (string_to_array(%(values)s, E'\x1f')) AND expires_at > now();

-- name: list
-- Reads at most `scan` rows in the order of keys, and stops when the page is full. If the page is not full and there may be
-- more rows, the last row is the one at which the scan ended, and does not match.
WITH scanned AS MATERIALIZED (
    SELECT /*columns*/, expires_at > now() AND confidence >= %(min_confidence)s
           AND (%(tag)s = '' OR %(tag)s = ANY (tags)) AS matches
    FROM "vsync".iocs
    WHERE tenant = %(tenant)s AND (type, value) > (%(after_type)s, %(after_value)s) AND type <= %(last_type)s
    ORDER BY type, value LIMIT %(scan)s
)
SELECT * FROM (
    (SELECT * FROM scanned WHERE matches)
    UNION ALL
    (SELECT /*columns*/, false FROM scanned OFFSET %(scan)s - 1 LIMIT 1)
) AS page
LIMIT %(size)s;

-- name: list_of_source
-- Returns the same for one source.
WITH scanned AS MATERIALIZED (
    SELECT /*columns*/, expires_at > now() AND confidence >= %(min_confidence)s
           AND (%(tag)s = '' OR %(tag)s = ANY (tags)) AS matches
    FROM "vsync".iocs
    WHERE tenant = %(tenant)s AND source = %(source)s
      AND (type, value) > (%(after_type)s, %(after_value)s) AND type <= %(last_type)s
    ORDER BY type, value LIMIT %(scan)s
)
SELECT * FROM (
    (SELECT * FROM scanned WHERE matches)
    UNION ALL
    (SELECT /*columns*/, false FROM scanned OFFSET %(scan)s - 1 LIMIT 1)
) AS page
LIMIT %(size)s;

-- name: delete
DELETE FROM "vsync".iocs
WHERE tenant = %(tenant)s AND type = %(type)s AND value = %(value)s AND expires_at > clock_timestamp()
RETURNING revision, confidence;

-- name: delete_expired
SELECT tenant, iocs FROM "vsync".delete_expired_iocs(%(step)s);
