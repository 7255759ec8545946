-- name: record
-- The change of RecordEvaluation's single statement (see vsyncd.postgres.single_statement).
INSERT INTO "vsync".evaluations (/*columns*/)
SELECT evaluation_id, "vsync".uuid_v7_time(evaluation_id), candidate_name, candidate_version, input_fingerprint,
       primary_result::jsonb, shadow_result::jsonb, primary_latency_us, shadow_latency_us, differing_path_count > 0,
       differing_path_count, differing_paths
FROM fresh
ON CONFLICT (evaluation_id) DO NOTHING
RETURNING evaluation_id AS key;

-- name: record_many
-- Inserts the evaluations that do not exist yet, and returns their ids. In the order of ids, so that two batches with the
-- same evaluations do not deadlock.
INSERT INTO "vsync".evaluations (/*columns*/)
SELECT evaluation_id, "vsync".uuid_v7_time(evaluation_id), candidate_name, candidate_version, input_fingerprint,
       primary_result::jsonb, shadow_result::jsonb, primary_latency_us, shadow_latency_us, differing_path_count > 0,
       differing_path_count, differing_paths
FROM json_to_recordset(%(rows)s::json) AS i (/*new_columns*/)
ORDER BY evaluation_id
ON CONFLICT (evaluation_id) DO NOTHING
RETURNING evaluation_id;

-- name: get
SELECT /*columns*/ FROM "vsync".evaluations WHERE evaluation_id = %(id)s;

-- name: get_many
-- The bounds exclude the partitions of other months.
SELECT /*columns*/ FROM "vsync".evaluations
WHERE evaluation_id = ANY (%(ids)s::uuid[]) AND evaluation_id BETWEEN %(first)s AND %(last)s
ORDER BY evaluation_id DESC;

-- Searches are newest first, from the id `below` (exclusive) to the id `from` (inclusive).

-- name: search
-- Reads at most `scan` rows in the order of ids, and stops when the page is full. MATCHES is the condition on each row. If the
-- page is not full and there may be more rows, the last row has the id at which the scan ended.
WITH scanned AS MATERIALIZED (
    SELECT evaluation_id, /*MATCHES*/ AS matches FROM "vsync".evaluations
    WHERE evaluation_id >= %(from)s AND evaluation_id < %(below)s
    ORDER BY evaluation_id DESC LIMIT %(scan)s
)
SELECT * FROM (
    (SELECT evaluation_id, true AS matches FROM scanned WHERE matches)
    UNION ALL
    (SELECT evaluation_id, false FROM scanned OFFSET %(scan)s - 1 LIMIT 1)
) AS page
LIMIT %(size)s;

-- name: search_candidate
-- Returns the same for one candidate.
SELECT evaluation_id, matches
FROM "vsync".evaluations_of_candidate(%(name)s, %(version)s, %(diverged)s, %(primary)s::jsonb, %(shadow)s::jsonb, %(from)s,
                                      %(below)s, %(scan)s, %(size)s);

-- name: containing
SELECT evaluation_id, candidate_name, candidate_version, diverged
FROM "vsync".evaluations_containing(%(primary)s::jsonb, %(shadow)s::jsonb, %(from)s, %(below)s, %(limit)s);

-- name: summary
-- Paths and latencies are NULL if there are no evaluations.
WITH hours AS MATERIALIZED (
    SELECT evaluations, diverged, primary_latencies, shadow_latencies, paths, path_counts, other_differences
    FROM "vsync".evaluation_hours
    WHERE candidate_name = %(name)s AND candidate_version = %(version)s AND hour >= %(begin)s AND hour < %(end)s
), totals AS (
    SELECT coalesce(sum(evaluations), 0)::bigint AS evaluations, coalesce(sum(diverged), 0)::bigint AS diverged,
           "vsync".sum_histograms(primary_latencies) AS primary_latencies,
           "vsync".sum_histograms(shadow_latencies) AS shadow_latencies,
           coalesce(sum(other_differences), 0)::bigint AS other_differences
    FROM hours
), counted AS (
    SELECT path, sum(times)::bigint AS times
    FROM hours, unnest(paths, path_counts) AS counts (path, times) GROUP BY path
), top AS (
    SELECT path, times FROM counted ORDER BY times DESC, path LIMIT %(max_paths)s
)
SELECT evaluations, diverged,
       ARRAY(SELECT "vsync".latency_quantile(primary_latencies, quantile)
             FROM unnest(ARRAY[0.5, 0.9, 0.95, 0.99]) AS quantile),
       ARRAY(SELECT "vsync".latency_quantile(shadow_latencies, quantile)
             FROM unnest(ARRAY[0.5, 0.9, 0.95, 0.99]) AS quantile),
       ARRAY(SELECT path FROM top ORDER BY times DESC, path), ARRAY(SELECT times FROM top ORDER BY times DESC, path),
       (other_differences + coalesce((SELECT sum(times) FROM counted), 0)
        - coalesce((SELECT sum(times) FROM top), 0))::bigint
FROM totals;

-- name: fold
SELECT "vsync".fold_evaluation_rollups();
