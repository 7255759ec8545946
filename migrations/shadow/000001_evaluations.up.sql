-- evaluations: the results of a candidate and of the primary system for the same input, append-only. The hourly rollups
-- count them.

-- ---------------------------------------------------------------------------------------------------------------
-- evaluations is partitioned by month on the time in the id. So the primary key, which must contain the partition key,
-- makes the id unique across all partitions.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".evaluations (
    evaluation_id        uuid        NOT NULL,
    evaluated_at         timestamptz NOT NULL,
    candidate_name       text        COLLATE "C" NOT NULL,
    candidate_version    text        COLLATE "C" NOT NULL,
    input_fingerprint    bytea       NOT NULL,
    primary_result       jsonb       NOT NULL,
    shadow_result        jsonb       NOT NULL,
    primary_latency_us   bigint      NOT NULL,
    shadow_latency_us    bigint      NOT NULL,
    diverged             boolean     NOT NULL,
    differing_path_count integer     NOT NULL,
    differing_paths      text[]      COLLATE "C" NOT NULL,
    -- GetEvaluation, and SearchEvaluations without a candidate.
    CONSTRAINT evaluations_pkey PRIMARY KEY (evaluation_id),
    CONSTRAINT evaluations_evaluation_id_is_v7 CHECK (get_byte(uuid_send(evaluation_id), 6) >> 4 = 7),
    CONSTRAINT evaluations_evaluated_at_is_the_ids CHECK (evaluated_at = "vsync".uuid_v7_time(evaluation_id)),
    CONSTRAINT evaluations_candidate_name CHECK (char_length(candidate_name) BETWEEN 1 AND 100),
    CONSTRAINT evaluations_candidate_version CHECK (char_length(candidate_version) BETWEEN 1 AND 100),
    CONSTRAINT evaluations_input_fingerprint CHECK (octet_length(input_fingerprint) = 32),
    CONSTRAINT evaluations_primary_result CHECK (
        jsonb_typeof(primary_result) = 'object' AND octet_length(primary_result::text) <= 16384),
    CONSTRAINT evaluations_shadow_result CHECK (
        jsonb_typeof(shadow_result) = 'object' AND octet_length(shadow_result::text) <= 16384),
    CONSTRAINT evaluations_latencies CHECK (
        primary_latency_us BETWEEN 0 AND 3600000000 AND shadow_latency_us BETWEEN 0 AND 3600000000),
    CONSTRAINT evaluations_diverged CHECK (diverged = (differing_path_count > 0)),
    CONSTRAINT evaluations_differing_path_count CHECK (
        differing_path_count >= 0 AND cardinality(differing_paths) = least(differing_path_count, 100)),
    CONSTRAINT evaluations_differing_paths CHECK (
        array_position(differing_paths, NULL) IS NULL AND array_position(differing_paths, '') IS NULL
        AND char_length(array_to_string(differing_paths, '')) <= 255 * cardinality(differing_paths))
) PARTITION BY RANGE (evaluation_id);

COMMENT ON COLUMN "vsync".evaluations.input_fingerprint IS 'The SHA-256 of the input.';
COMMENT ON COLUMN "vsync".evaluations.primary_latency_us IS 'In microseconds.';
COMMENT ON COLUMN "vsync".evaluations.differing_paths IS 'The first 100 of differing_path_count paths.';

-- SearchEvaluations by candidate, newest first. Hardly any evaluation of a good candidate diverges.
CREATE INDEX evaluations_candidate_idx ON "vsync".evaluations (candidate_name, candidate_version, evaluation_id);
CREATE INDEX evaluations_diverged_idx ON "vsync".evaluations (candidate_name, candidate_version, evaluation_id)
    WHERE diverged;
-- SearchEvaluations by content. jsonb_path_ops has one entry per value with its path, and supports @> only.
CREATE INDEX evaluations_results_idx ON "vsync".evaluations
    USING gin (primary_result jsonb_path_ops, shadow_result jsonb_path_ops);

-- A row trigger: unlike a statement trigger, it also protects the partitions.
CREATE TRIGGER evaluations_append_only BEFORE UPDATE OR DELETE ON "vsync".evaluations
    FOR EACH ROW EXECUTE FUNCTION "vsync".refuse_change();
CREATE TRIGGER evaluations_truncated BEFORE TRUNCATE ON "vsync".evaluations
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

-- ---------------------------------------------------------------------------------------------------------------
-- Histograms of latencies: an array with the number of latencies per bucket. Bucket 1 has those below the first bound,
-- bucket n + 1 those from bound n, inclusive, to the next.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".latency_bounds() RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY[100, 150, 200, 300, 500, 700,
             1000, 1500, 2000, 3000, 5000, 7000,
             10000, 15000, 20000, 30000, 50000, 70000,
             100000, 150000, 200000, 300000, 500000, 700000,
             1000000, 1500000, 2000000, 3000000, 5000000, 7000000,
             10000000, 15000000, 20000000, 30000000, 50000000, 70000000,
             100000000, 150000000, 200000000, 300000000, 500000000, 700000000]::bigint[];

COMMENT ON FUNCTION "vsync".latency_bounds IS 'Returns the bounds between the buckets of a histogram, in microseconds.';

CREATE FUNCTION "vsync".add_latency(histogram bigint[], latency_us bigint) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bucket integer := 1 + width_bucket(latency_us, "vsync".latency_bounds());
BEGIN
    histogram[bucket] := histogram[bucket] + 1;
    RETURN histogram;
END
$$;

CREATE AGGREGATE "vsync".latency_histogram(bigint) (
    SFUNC = "vsync".add_latency, STYPE = bigint[], PARALLEL = SAFE,
    INITCOND = '{0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}'
);

COMMENT ON AGGREGATE "vsync".latency_histogram(bigint) IS 'Returns the histogram of latencies in microseconds.';

CREATE FUNCTION "vsync".add_histograms(a bigint[], b bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT array_agg(pair.a + pair.b ORDER BY bucket)
        FROM unnest(a, b) WITH ORDINALITY AS pair (a, b, bucket));

CREATE AGGREGATE "vsync".sum_histograms(bigint[]) (
    SFUNC = "vsync".add_histograms, STYPE = bigint[], PARALLEL = SAFE
);

COMMENT ON AGGREGATE "vsync".sum_histograms(bigint[]) IS 'Returns the sum of histograms, bucket by bucket.';

-- The last bucket ends at the greatest latency that the tables accept.
CREATE FUNCTION "vsync".latency_quantile(histogram bigint[], quantile float8) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (
    SELECT round(lower_us + (upper_us - lower_us) * greatest(quantile * total - below, 0) / latencies)::bigint
    FROM (SELECT latencies, (sum(latencies) OVER ())::float8 AS total,
                 (sum(latencies) OVER (ORDER BY bucket) - latencies)::float8 AS below,
                 coalesce(("vsync".latency_bounds())[bucket - 1], 0) AS lower_us,
                 coalesce(("vsync".latency_bounds())[bucket], 3600000000) AS upper_us
          FROM unnest(histogram) WITH ORDINALITY AS buckets (latencies, bucket)) AS cumulative
    WHERE latencies > 0 AND below + latencies >= quantile * total
    ORDER BY below LIMIT 1);

COMMENT ON FUNCTION "vsync".latency_quantile IS
    'Returns a quantile (0 to 1) of a histogram in microseconds, interpolated within its bucket, or NULL if it is empty.';

-- ---------------------------------------------------------------------------------------------------------------
-- evaluation_rollups: counts by candidate and hour. A statement that inserts evaluations adds a row for each candidate and
-- hour (a delta), so that concurrent writers do not wait for each other. fold_evaluation_rollups adds the deltas to the
-- folded row of the candidate and hour. Readers add up all rows, which the view evaluation_hours has.
--
-- A row counts at most 100 paths: the most frequent ones. Differences at other paths are counted in other_differences.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".evaluation_rollups (
    hour              timestamptz NOT NULL,
    candidate_name    text        COLLATE "C" NOT NULL,
    candidate_version text        COLLATE "C" NOT NULL,
    folded            boolean     NOT NULL DEFAULT false,
    evaluations       bigint      NOT NULL,
    diverged          bigint      NOT NULL,
    primary_latencies bigint[]    NOT NULL,
    shadow_latencies  bigint[]    NOT NULL,
    paths             text[]      COLLATE "C" NOT NULL,
    path_counts       bigint[]    NOT NULL,
    other_differences bigint      NOT NULL,
    CONSTRAINT evaluation_rollups_hour CHECK (hour = date_trunc('hour', hour, 'UTC')),
    CONSTRAINT evaluation_rollups_candidate CHECK (
        char_length(candidate_name) BETWEEN 1 AND 100 AND char_length(candidate_version) BETWEEN 1 AND 100),
    CONSTRAINT evaluation_rollups_counts CHECK (
        evaluations > 0 AND diverged BETWEEN 0 AND evaluations AND other_differences >= 0),
    CONSTRAINT evaluation_rollups_latencies CHECK (
        cardinality(primary_latencies) = 43 AND cardinality(shadow_latencies) = 43),
    CONSTRAINT evaluation_rollups_paths CHECK (
        cardinality(paths) <= 100 AND cardinality(path_counts) = cardinality(paths))
) PARTITION BY RANGE (hour);

-- GetDivergenceSummary reads both. The first also keeps a fold from leaving two folded rows.
CREATE UNIQUE INDEX evaluation_rollups_folded_idx
    ON "vsync".evaluation_rollups (candidate_name, candidate_version, hour) WHERE folded;
CREATE INDEX evaluation_rollups_deltas_idx
    ON "vsync".evaluation_rollups (candidate_name, candidate_version, hour) WHERE NOT folded;

CREATE TRIGGER evaluation_rollups_truncated BEFORE TRUNCATE ON "vsync".evaluation_rollups
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

-- SECURITY DEFINER: the service's role cannot write rollups itself.
CREATE FUNCTION "vsync".evaluations_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO "vsync".evaluation_rollups (hour, candidate_name, candidate_version, evaluations, diverged,
                                            primary_latencies, shadow_latencies, paths, path_counts, other_differences)
    SELECT hour, candidate_name, candidate_version, counts.evaluations, counts.diverged, counts.primary_latencies,
           counts.shadow_latencies, coalesce(top.paths, '{}'), coalesce(top.path_counts, '{}'),
           counts.differences - coalesce(top.differences, 0)
    FROM (
        SELECT date_trunc('hour', evaluated_at, 'UTC') AS hour, candidate_name, candidate_version,
               count(*) AS evaluations, count(*) FILTER (WHERE diverged) AS diverged,
               "vsync".latency_histogram(primary_latency_us) AS primary_latencies,
               "vsync".latency_histogram(shadow_latency_us) AS shadow_latencies,
               sum(differing_path_count) AS differences
        FROM new_rows GROUP BY 1, 2, 3
    ) AS counts LEFT JOIN (
        SELECT hour, candidate_name, candidate_version, array_agg(path ORDER BY place) AS paths,
               array_agg(times ORDER BY place) AS path_counts, sum(times) AS differences
        FROM (SELECT date_trunc('hour', evaluated_at, 'UTC') AS hour, candidate_name, candidate_version, path,
                     count(*) AS times,
                     row_number() OVER (PARTITION BY date_trunc('hour', evaluated_at, 'UTC'), candidate_name,
                                        candidate_version ORDER BY count(*) DESC, path) AS place
              FROM new_rows, unnest(differing_paths) AS path GROUP BY 1, 2, 3, 4) AS ranked
        WHERE place <= 100 GROUP BY 1, 2, 3
    ) AS top USING (hour, candidate_name, candidate_version);
    RETURN NULL;
END
$$;

CREATE TRIGGER evaluations_inserted AFTER INSERT ON "vsync".evaluations
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION "vsync".evaluations_inserted();

CREATE FUNCTION "vsync".fold_evaluation_rollups() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    folded_deltas bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('vsyncd fold_evaluation_rollups "vsync"', 0)) THEN
        RETURN 0;
    END IF;
    -- One statement uses one snapshot: no delta is lost or counted twice.
    WITH deltas AS (
        DELETE FROM "vsync".evaluation_rollups WHERE NOT folded RETURNING *
    ), sums AS (
        DELETE FROM "vsync".evaluation_rollups AS r
        USING (SELECT DISTINCT hour, candidate_name, candidate_version FROM deltas) AS d
        WHERE r.folded AND r.hour = d.hour AND r.candidate_name = d.candidate_name
          AND r.candidate_version = d.candidate_version
        RETURNING r.*
    ), every AS MATERIALIZED (
        SELECT * FROM deltas UNION ALL SELECT * FROM sums
    ), counts AS (
        SELECT hour, candidate_name, candidate_version, sum(evaluations) AS evaluations, sum(diverged) AS diverged,
               "vsync".sum_histograms(primary_latencies) AS primary_latencies,
               "vsync".sum_histograms(shadow_latencies) AS shadow_latencies, sum(other_differences) AS other_differences
        FROM every GROUP BY 1, 2, 3
    ), ranked AS (
        SELECT hour, candidate_name, candidate_version, path, sum(times) AS times,
               row_number() OVER (PARTITION BY hour, candidate_name, candidate_version
                                  ORDER BY sum(times) DESC, path) AS place
        FROM every, unnest(paths, path_counts) AS counted (path, times) GROUP BY 1, 2, 3, 4
    ), top AS (
        SELECT hour, candidate_name, candidate_version,
               array_agg(path ORDER BY place) FILTER (WHERE place <= 100) AS paths,
               array_agg(times::bigint ORDER BY place) FILTER (WHERE place <= 100) AS path_counts,
               coalesce(sum(times) FILTER (WHERE place > 100), 0) AS cut_off
        FROM ranked GROUP BY 1, 2, 3
    ), kept AS (
        INSERT INTO "vsync".evaluation_rollups (hour, candidate_name, candidate_version, folded, evaluations, diverged,
                                                primary_latencies, shadow_latencies, paths, path_counts,
                                                other_differences)
        SELECT hour, candidate_name, candidate_version, true, evaluations, diverged, primary_latencies, shadow_latencies,
               coalesce(paths, '{}'), coalesce(path_counts, '{}'), other_differences + coalesce(cut_off, 0)
        FROM counts LEFT JOIN top USING (hour, candidate_name, candidate_version)
    )
    SELECT count(*) INTO folded_deltas FROM deltas;
    RETURN folded_deltas;
END
$$;

COMMENT ON FUNCTION "vsync".fold_evaluation_rollups IS
    'Adds the deltas to the folded rows and returns their number; 0 if another session is doing so.';

CREATE VIEW "vsync".evaluation_hours AS
SELECT hour, candidate_name, candidate_version, evaluations, diverged, primary_latencies, shadow_latencies, paths,
       path_counts, other_differences
FROM "vsync".evaluation_rollups WHERE folded
UNION ALL
SELECT hour, candidate_name, candidate_version, evaluations, diverged, primary_latencies, shadow_latencies, paths,
       path_counts, other_differences
FROM "vsync".evaluation_rollups WHERE NOT folded;

COMMENT ON VIEW "vsync".evaluation_hours IS 'To be added up: counts of the evaluations by candidate and hour.';

CREATE VIEW "vsync".divergence_summary AS
SELECT candidate_name, candidate_version, hour, sum(evaluations)::bigint AS evaluations,
       sum(diverged)::bigint AS diverged, round(sum(diverged) / sum(evaluations), 6) AS divergence_rate,
       "vsync".latency_quantile("vsync".sum_histograms(primary_latencies), 0.5) AS primary_p50_us,
       "vsync".latency_quantile("vsync".sum_histograms(primary_latencies), 0.95) AS primary_p95_us,
       "vsync".latency_quantile("vsync".sum_histograms(shadow_latencies), 0.5) AS shadow_p50_us,
       "vsync".latency_quantile("vsync".sum_histograms(shadow_latencies), 0.95) AS shadow_p95_us
FROM "vsync".evaluation_hours GROUP BY candidate_name, candidate_version, hour;

COMMENT ON VIEW "vsync".divergence_summary IS 'A row per candidate and hour, for psql. GetDivergenceSummary also has paths.';

-- ---------------------------------------------------------------------------------------------------------------
-- SearchEvaluations by candidate: reads at most max_scanned rows, newest first, and stops when max_rows match. If fewer
-- match and there may be more rows, the last row returned has the id at which it stopped, and matches is false.
--
-- A candidate may have most evaluations or hardly any. Row comparisons, the order and the settings leave the planner only
-- the index of the candidate, read backwards: the primary key would be read up to the last match, and a sort would read
-- every evaluation of the candidate. Each partition outside the range costs one index lookup.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".evaluations_of_candidate(
    wanted_name text, wanted_version text, wanted_diverged boolean, primary_part jsonb, shadow_part jsonb, from_id uuid,
    below_id uuid, max_scanned integer, max_rows integer)
RETURNS TABLE (evaluation_id uuid, matches boolean)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET enable_sort = off SET enable_seqscan = off SET enable_bitmapscan = off
SET jit = off AS $$
BEGIN
    IF wanted_diverged THEN
        RETURN QUERY WITH scanned AS MATERIALIZED (
            SELECT e.evaluation_id AS id, (primary_part IS NULL OR e.primary_result @> primary_part)
                AND (shadow_part IS NULL OR e.shadow_result @> shadow_part) AS is_match
            FROM "vsync".evaluations AS e
            WHERE (e.candidate_name, e.candidate_version, e.evaluation_id) >= (wanted_name, wanted_version, from_id)
              AND (e.candidate_name, e.candidate_version, e.evaluation_id) < (wanted_name, wanted_version, below_id) AND e.diverged
            ORDER BY e.candidate_name DESC, e.candidate_version DESC, e.evaluation_id DESC LIMIT max_scanned)
        SELECT * FROM (
            SELECT id, true FROM scanned WHERE is_match
            UNION ALL (SELECT id, false FROM scanned OFFSET max_scanned - 1 LIMIT 1)) AS page
        LIMIT max_rows;
    ELSE
        RETURN QUERY WITH scanned AS MATERIALIZED (
            SELECT e.evaluation_id AS id, (primary_part IS NULL OR e.primary_result @> primary_part)
                AND (shadow_part IS NULL OR e.shadow_result @> shadow_part)
                AND (wanted_diverged IS NULL OR NOT e.diverged) AS is_match
            FROM "vsync".evaluations AS e
            WHERE (e.candidate_name, e.candidate_version, e.evaluation_id) >= (wanted_name, wanted_version, from_id)
              AND (e.candidate_name, e.candidate_version, e.evaluation_id) < (wanted_name, wanted_version, below_id)
            ORDER BY e.candidate_name DESC, e.candidate_version DESC, e.evaluation_id DESC LIMIT max_scanned)
        SELECT * FROM (
            SELECT id, true FROM scanned WHERE is_match
            UNION ALL (SELECT id, false FROM scanned OFFSET max_scanned - 1 LIMIT 1)) AS page
        LIMIT max_rows;
    END IF;
END
$$;

COMMENT ON FUNCTION "vsync".evaluations_of_candidate IS
    'Returns the newest evaluations of a candidate that match, with a bounded number of rows read. NULL: any.';

-- ---------------------------------------------------------------------------------------------------------------
-- SearchEvaluations by content. Sequential and index scans are off, so that each partition is read by its GIN index,
-- whatever the planner knows about the values: other indexes would read the partition up to the last match. At most
-- max_rows matches are read. SECURITY DEFINER, because it reads the partitions by name: if it read the parent, the planner
-- could choose the condition on ids as the index condition.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".evaluations_containing(
    primary_part jsonb, shadow_part jsonb, from_id uuid, below_id uuid, max_rows integer)
RETURNS TABLE (evaluation_id uuid, candidate_name text, candidate_version text, diverged boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_indexscan = off SET enable_bitmapscan = on
SET jit = off AS $$
DECLARE
    -- An empty object would make the index return all rows.
    conditions text := concat_ws(' AND ', CASE WHEN primary_part IS NOT NULL THEN 'primary_result @> $1' END,
                                 CASE WHEN shadow_part IS NOT NULL THEN 'shadow_result @> $2' END);
    partition  text;
    found      integer;
    rows_left  integer := max_rows;
BEGIN
    FOR partition IN
        SELECT p.partition FROM "vsync".partitions() AS p
        WHERE p.parent = 'evaluations' AND p.begins < "vsync".uuid_v7_time(below_id)
          AND p.ends > "vsync".uuid_v7_time(from_id)
        ORDER BY p.begins DESC
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT evaluation_id, candidate_name, candidate_version, diverged FROM "vsync".%I WHERE %s LIMIT $3',
            partition, conditions)
            USING primary_part, shadow_part, rows_left;
        GET DIAGNOSTICS found = ROW_COUNT;
        rows_left := rows_left - found;
        EXIT WHEN rows_left <= 0;
    END LOOP;
END
$$;

COMMENT ON FUNCTION "vsync".evaluations_containing IS
    'Returns evaluations of the partitions between two ids whose results contain these objects, in no order. NULL: any.';

-- The digests of a backup.
CREATE VIEW "vsync".content_digest_evaluations AS
SELECT lpad(to_hex(coalesce(bit_xor(hash_record_extended(e, 0)), 0)), 16, '0') AS digest FROM "vsync".evaluations AS e;

CREATE VIEW "vsync".content_digest_evaluation_rollups AS
SELECT lpad(to_hex(coalesce(bit_xor(hash_record_extended(r, 0)), 0)), 16, '0') AS digest
FROM "vsync".evaluation_rollups AS r;

SELECT "vsync".register_partitioned_table('evaluations', 'month', 'SHADOW_RETENTION_DAYS');
SELECT "vsync".register_partitioned_table('evaluation_rollups', 'month', 'SHADOW_RETENTION_DAYS');

CREATE FUNCTION "vsync".grant_shadow_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".evaluations TO %I', service);
    EXECUTE format('GRANT SELECT ON "vsync".evaluation_hours, "vsync".divergence_summary TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".latency_bounds(), "vsync".latency_quantile(bigint[], float8),
                    "vsync".add_histograms(bigint[], bigint[]), "vsync".sum_histograms(bigint[]),
                    "vsync".fold_evaluation_rollups(),
                    "vsync".evaluations_of_candidate(text, text, boolean, jsonb, jsonb, uuid, uuid, integer, integer),
                    "vsync".evaluations_containing(jsonb, jsonb, uuid, uuid, integer) TO %I', service);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "vsync" FROM PUBLIC;
