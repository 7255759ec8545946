-- /*columns*/ stands for the columns of Payment.

-- name: insert_keys
-- The part of StorePayment's single statement before its change (see vsyncd.postgres.single_statement). A payment has the
-- id of its audit entry; `payment_key` is its correlation id. Keys are inserted in their order, so that two statements do
-- not deadlock.
keyed AS (
    INSERT INTO "vsync".payment_keys (correlation_id, payment_id)
    SELECT payment_key, audit_id FROM fresh ORDER BY payment_key
    ON CONFLICT DO NOTHING
    RETURNING payment_id
)

-- name: store
INSERT INTO "vsync".payments (id, created_at, requested_at, processed_at, amount, correlation_id, processor)
SELECT audit_id, created_at, requested_at, processed_at, amount, payment_key, processor
FROM fresh JOIN keyed ON keyed.payment_id = fresh.audit_id
RETURNING id AS key;

-- name: store_many
-- Stores the payments whose correlation ids are new, and returns their ids.
WITH input AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS i (
        id uuid, requested_at timestamptz, processed_at timestamptz, amount numeric, correlation_id text, processor text)
), keyed AS (
    INSERT INTO "vsync".payment_keys (correlation_id, payment_id)
    SELECT correlation_id, id FROM input ORDER BY correlation_id
    ON CONFLICT DO NOTHING
    RETURNING payment_id
)
INSERT INTO "vsync".payments (id, created_at, requested_at, processed_at, amount, correlation_id, processor)
SELECT id, "vsync".uuid_v7_time(id), requested_at, processed_at, amount, correlation_id, processor
FROM input JOIN keyed ON keyed.payment_id = input.id
RETURNING id;

-- name: get_by_id
SELECT /*columns*/ FROM "vsync".payments WHERE id = %(id)s;

-- name: get_by_correlation_ids
SELECT /*columns*/ FROM "vsync".payments
WHERE id = ANY (ARRAY(SELECT payment_id FROM "vsync".payment_keys WHERE correlation_id = ANY (%(correlation_ids)s::text[])));

-- name: list
-- Filters at most `scan` payments of the time range. scan_end is the position of the last scanned one.
WITH scanned AS MATERIALIZED (
    SELECT /*columns*/ FROM "vsync".payments
    WHERE (processed_at, id) > (%(after)s::timestamptz, %(after_id)s::uuid) AND processed_at < %(below)s::timestamptz
    ORDER BY processed_at, id LIMIT %(scan)s
)
SELECT page.*, counted.rows, scan_end.processed_at, scan_end.id
FROM (SELECT count(*) AS rows FROM scanned) AS counted
LEFT JOIN (SELECT processed_at, id FROM scanned ORDER BY processed_at DESC, id DESC LIMIT 1) AS scan_end ON true
LEFT JOIN LATERAL (
    SELECT * FROM scanned WHERE %(processor)s::text IS NULL OR processor = %(processor)s
    ORDER BY processed_at, id LIMIT %(size)s
) AS page ON true;

-- name: summary
SELECT processor, sum(payments)::bigint, sum(amount)
FROM (SELECT processor, payments, amount FROM "vsync".payment_totals
      UNION ALL SELECT processor, payments, amount FROM "vsync".unfolded_payments) AS sums
GROUP BY processor;

-- name: summary_of_range
-- The whole hours from first_hour until before below_hour from their totals, and parts of hours from the payments. Each part
-- is within one hour. is_complete: no payment of these hours was dropped, because their number is that of the totals.
WITH parts AS MATERIALIZED (
    SELECT * FROM unnest(%(hours)s::timestamptz[], %(begins)s::timestamptz[], %(ends)s::timestamptz[])
        AS p (hour, begins, ends)
), unfolded AS MATERIALIZED (
    SELECT hour, processor, payments, amount FROM "vsync".unfolded_payments
), present AS MATERIALIZED (
    SELECT inside.* FROM parts CROSS JOIN LATERAL (
        SELECT processor, count(*) AS of_hour,
               count(*) FILTER (WHERE processed_at >= parts.begins AND processed_at < parts.ends) AS payments,
               sum(amount) FILTER (WHERE processed_at >= parts.begins AND processed_at < parts.ends) AS amount
        FROM "vsync".payments WHERE processed_at >= parts.hour AND processed_at < parts.hour + interval '1 hour'
        GROUP BY processor) AS inside
), sums AS (
    SELECT processor, sum(payments)::bigint AS payments, sum(amount) AS amount
    FROM (SELECT processor, payments, amount FROM "vsync".payment_hours
          WHERE hour >= %(first_hour)s::timestamptz AND hour < %(below_hour)s::timestamptz
          UNION ALL SELECT processor, payments, amount FROM unfolded
          WHERE hour >= %(first_hour)s::timestamptz AND hour < %(below_hour)s::timestamptz
          UNION ALL SELECT processor, payments, amount FROM present WHERE payments > 0) AS every
    GROUP BY processor
)
SELECT (SELECT coalesce(sum(of_hour), 0) FROM present)
     = (SELECT coalesce(sum(payments), 0)
        FROM (SELECT payments FROM "vsync".payment_hours WHERE hour = ANY (%(hours)s::timestamptz[])
              UNION ALL SELECT payments FROM unfolded WHERE hour = ANY (%(hours)s::timestamptz[])) AS counted)
       AS is_complete, sums.*
FROM (SELECT) AS one LEFT JOIN sums ON true;

-- name: fold_totals
SELECT "vsync".fold_payment_totals();

-- name: drop_keys
SELECT "vsync".drop_payment_keys(%(step)s);

-- name: report_health
-- clock_timestamp(), because a report may have waited for another one.
INSERT INTO "vsync".processor_health AS h (processor, healthy, min_response_time_ms, reported_at)
VALUES (%(processor)s, %(healthy)s, %(min_response_time_ms)s, clock_timestamp())
ON CONFLICT (processor) DO UPDATE
    SET healthy = excluded.healthy, min_response_time_ms = excluded.min_response_time_ms,
        reported_at = clock_timestamp(), revision = h.revision + 1
RETURNING processor, healthy, min_response_time_ms, reported_at, revision;

-- name: health
SELECT now(), processor, healthy, min_response_time_ms, reported_at, revision
FROM "vsync".processor_health WHERE processor = ANY (%(processors)s::text[]);
