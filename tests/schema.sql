CREATE SCHEMA vsync;
CREATE FUNCTION vsync.add_histograms(a bigint[], b bigint[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (SELECT array_agg((pair.a + pair.b) ORDER BY pair.bucket) AS array_agg FROM UNNEST(add_histograms.a, add_histograms.b) WITH ORDINALITY pair(a, b, bucket));
CREATE FUNCTION vsync.add_latency(histogram bigint[], latency_us bigint) RETURNS bigint[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    bucket integer := 1 + width_bucket(latency_us, "vsync".latency_bounds());
BEGIN
    histogram[bucket] := histogram[bucket] + 1;
    RETURN histogram;
END
$$;
CREATE FUNCTION vsync.audit_change_by_hand(operation text, ispb text, changed bigint) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    INSERT INTO "vsync".audit_logs (id, created_at, correlation_id, recorded_by, action, ispb, payload)
    SELECT id, "vsync".uuid_v7_time(id), 'by-hand', 'role:' || session_user, 'vsync.by-hand/' || operation || ' cids', ispb,
           jsonb_build_object('records', changed, 'application', current_setting('application_name'))
    FROM "vsync".uuid_v7(clock_timestamp()) AS id;
$$;
COMMENT ON FUNCTION vsync.audit_change_by_hand(operation text, ispb text, changed bigint) IS 'Writes the audit entry of a change outside the service.';
CREATE FUNCTION vsync.begin_cache_epoch() RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    INSERT INTO "vsync".cache_epoch (secret)
    VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))
    ON CONFLICT DO NOTHING;
$$;
COMMENT ON FUNCTION vsync.begin_cache_epoch() IS 'Inserts the row if it does not exist.';
CREATE FUNCTION vsync.cache_key(key_value text, ispb text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256(convert_to(((key_value || ' '::text) || ispb), 'UTF8'::name));
CREATE FUNCTION vsync.cid_bits(cid bytea) RETURNS bit
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (('x'::text || encode(cid, 'hex'::text)))::bit(256);
COMMENT ON FUNCTION vsync.cid_bits(cid bytea) IS 'Converts a CID for bit_xor. bit_send(...) without its first 4 bytes converts it back.';
CREATE FUNCTION vsync.cid_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    audit uuid := nullif(current_setting('vsync.audit_id', true), '')::uuid;
BEGIN
    INSERT INTO "vsync".cid_events (ispb, key_type, change, cid, audit_id)
    VALUES (OLD.ispb, OLD.key_type, 2, OLD.cid, audit), (NEW.ispb, NEW.key_type, 1, NEW.cid, audit);
    RETURN NULL;
END
$$;
CREATE FUNCTION vsync.cid_removed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO "vsync".cid_events (ispb, key_type, change, cid, audit_id)
    VALUES (OLD.ispb, OLD.key_type, 2, OLD.cid, nullif(current_setting('vsync.audit_id', true), '')::uuid);
    RETURN NULL;
END
$$;
CREATE FUNCTION vsync.cids_deleted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records, cid_xor)
    SELECT ispb, key_type, sync_status, -count(*), bit_xor("vsync".cid_bits(cid))
    FROM old_rows GROUP BY ispb, key_type, sync_status;
    IF nullif(current_setting('vsync.audit_id', true), '') IS NULL THEN
        PERFORM "vsync".audit_change_by_hand(TG_OP, ispb, count(*)) FROM old_rows GROUP BY ispb;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION vsync.cids_inserted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    audit text := nullif(current_setting('vsync.audit_id', true), '');
BEGIN
    INSERT INTO "vsync".cid_events (ispb, key_type, change, cid, audit_id)
    SELECT ispb, key_type, 1, cid, CASE audit WHEN 'record' THEN id ELSE audit::uuid END FROM new_rows;
    INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records, cid_xor)
    SELECT ispb, key_type, sync_status, count(*), bit_xor("vsync".cid_bits(cid))
    FROM new_rows GROUP BY ispb, key_type, sync_status;
    IF audit IS NULL THEN
        PERFORM "vsync".audit_change_by_hand(TG_OP, ispb, count(*)) FROM new_rows GROUP BY ispb;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION vsync.cids_updated() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records, cid_xor)
    SELECT ispb, key_type, sync_status, sum(change), bit_xor("vsync".cid_bits(cid))
    FROM (SELECT ispb, key_type, sync_status, cid, -1 AS change FROM old_rows
          UNION ALL
          SELECT ispb, key_type, sync_status, cid, 1 FROM new_rows) AS changes
    GROUP BY ispb, key_type, sync_status
    HAVING sum(change) <> 0 OR bit_xor("vsync".cid_bits(cid)) <> repeat('0', 256)::bit(256);
    IF nullif(current_setting('vsync.audit_id', true), '') IS NULL THEN
        PERFORM "vsync".audit_change_by_hand(TG_OP, ispb, count(*)) FROM old_rows GROUP BY ispb;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION vsync.clean_expired_iocs(max_rows integer DEFAULT 10000) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    deleted bigint;
    counts  jsonb;
BEGIN
    SELECT coalesce(sum(iocs), 0), jsonb_object_agg(left(encode(tenant, 'hex'), 16), iocs)
    INTO deleted, counts FROM "vsync".delete_expired_iocs(max_rows);
    IF deleted > 0 THEN
        INSERT INTO "vsync".audit_logs (correlation_id, recorded_by, action, resource, payload)
        VALUES (gen_random_uuid()::text, session_user, 'vsync.iocs.v1.IocService/CleanExpiredIocs', 'iocs',
                jsonb_build_object('iocs', deleted, 'tenants', counts));
    END IF;
    RETURN deleted;
END
$$;
COMMENT ON FUNCTION vsync.clean_expired_iocs(max_rows integer) IS 'Deletes up to max_rows expired IOCs of all tenants, with an audit entry. Returns their number. Repeat it until it is 0.';
CREATE FUNCTION vsync.credit_balances_step(balances numeric[], available numeric, reserved numeric, number bigint, available_change numeric, reserved_change numeric) RETURNS numeric[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT CASE WHEN (((before.b[1] + credit_balances_step.available_change) >= (0)::numeric) AND ((before.b[2] + credit_balances_step.reserved_change) >= (0)::numeric) AND ((((before.b[1] + before.b[2]) + credit_balances_step.available_change) + credit_balances_step.reserved_change) <= 9999999999999999.99)) THEN ARRAY[(before.b[1] + credit_balances_step.available_change), (before.b[2] + credit_balances_step.reserved_change), (before.b[3] + (1)::numeric), (1)::numeric] ELSE ARRAY[before.b[1], before.b[2], before.b[3], (0)::numeric] END AS "array" FROM (SELECT COALESCE(credit_balances_step.balances, ARRAY[credit_balances_step.available, credit_balances_step.reserved, (credit_balances_step.number)::numeric, (0)::numeric]) AS "coalesce") before(b));
CREATE FUNCTION vsync.delete_expired_iocs(max_rows integer) RETURNS TABLE(tenant bytea, iocs bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    of_tenant bytea;
    deleted   bigint;
BEGIN
    FOR of_tenant IN
        WITH RECURSIVE tenants (tenant) AS (
            (SELECT i.tenant FROM "vsync".iocs AS i ORDER BY i.tenant LIMIT 1)
            UNION ALL
            SELECT (SELECT i.tenant FROM "vsync".iocs AS i WHERE i.tenant > tenants.tenant ORDER BY i.tenant LIMIT 1)
            FROM tenants WHERE tenants.tenant IS NOT NULL
        )
        SELECT tenants.tenant FROM tenants
        WHERE (SELECT i.expires_at FROM "vsync".iocs AS i
               WHERE i.tenant = tenants.tenant ORDER BY i.expires_at LIMIT 1) <= clock_timestamp()
    LOOP
        WITH expired AS MATERIALIZED (
            SELECT i.type, i.value FROM "vsync".iocs AS i
            WHERE i.tenant = of_tenant AND i.expires_at <= clock_timestamp()
            ORDER BY i.expires_at LIMIT max_rows FOR UPDATE SKIP LOCKED
        ), gone AS (
            DELETE FROM "vsync".iocs AS i USING expired
            WHERE i.tenant = of_tenant AND i.type = expired.type AND i.value = expired.value
            RETURNING 1
        )
        SELECT count(*) INTO deleted FROM gone;
        IF deleted > 0 THEN
            max_rows := max_rows - deleted;
            RETURN QUERY SELECT of_tenant, deleted;
        END IF;
        EXIT WHEN max_rows <= 0;
    END LOOP;
END
$$;
COMMENT ON FUNCTION vsync.delete_expired_iocs(max_rows integer) IS 'Deletes up to max_rows expired IOCs, without those that are locked. Returns their number for each tenant.';
CREATE FUNCTION vsync.drop_cid_changes() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    last    xid8;
    deleted bigint;
BEGIN
    SELECT max(transaction_id) INTO last FROM "vsync".cid_changes
    WHERE created_at < now() - interval '10 minutes'
      AND transaction_id < pg_snapshot_xmin(pg_current_snapshot());
    IF last IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE "vsync".cache_epoch SET dropped = greatest(dropped, last);
    DELETE FROM "vsync".cid_changes WHERE transaction_id <= last;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;
COMMENT ON FUNCTION vsync.drop_cid_changes() IS 'Deletes the changes that every cache has read. Returns how many it deleted.';
CREATE FUNCTION vsync.drop_payment_keys(step integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    dropped bigint;
BEGIN
    DELETE FROM "vsync".payment_keys WHERE correlation_id IN (
        SELECT correlation_id FROM "vsync".payment_keys
        WHERE payment_id < (SELECT "vsync".uuid_v7_floor(min(begins)) FROM "vsync".partitions() WHERE parent = 'payments')
        ORDER BY payment_id LIMIT step);
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION vsync.drop_payment_keys(step integer) IS 'Deletes up to `step` keys of payments whose partition was dropped. Returns their number.';
CREATE FUNCTION vsync.evaluations_containing(primary_part jsonb, shadow_part jsonb, from_id uuid, below_id uuid, max_rows integer) RETURNS TABLE(evaluation_id uuid, candidate_name text, candidate_version text, diverged boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_indexscan TO 'off'
    SET enable_bitmapscan TO 'on'
    SET jit TO 'off'
    AS $_$
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
$_$;
COMMENT ON FUNCTION vsync.evaluations_containing(primary_part jsonb, shadow_part jsonb, from_id uuid, below_id uuid, max_rows integer) IS 'Returns evaluations of the partitions between two ids whose results contain these objects, in no order. NULL: any.';
CREATE FUNCTION vsync.evaluations_inserted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
CREATE FUNCTION vsync.evaluations_of_candidate(wanted_name text, wanted_version text, wanted_diverged boolean, primary_part jsonb, shadow_part jsonb, from_id uuid, below_id uuid, max_scanned integer, max_rows integer) RETURNS TABLE(evaluation_id uuid, matches boolean)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_sort TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off'
    AS $$
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
COMMENT ON FUNCTION vsync.evaluations_of_candidate(wanted_name text, wanted_version text, wanted_diverged boolean, primary_part jsonb, shadow_part jsonb, from_id uuid, below_id uuid, max_scanned integer, max_rows integer) IS 'Returns the newest evaluations of a candidate that match, with a bounded number of rows read. NULL: any.';
CREATE FUNCTION vsync.fold_cid_totals() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    fold   "vsync".last_fold;
    own    xid8;
    folded bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('vsyncd fold_cid_totals "vsync"', 0)) THEN
        RETURN 0;
    END IF;
    SELECT * INTO STRICT fold FROM "vsync".last_fold;
    IF NOT fold.is_ours THEN
        fold.feed := fold.feed + 1;
        fold.feed_id := gen_random_uuid();
        fold.feed_began := clock_timestamp();
        EXECUTE format('ALTER TABLE "vsync".cid_events ALTER COLUMN feed SET DEFAULT %s', fold.feed);
    ELSIF NOT EXISTS (SELECT FROM "vsync".cid_deltas) THEN
        RETURN 0;
    END IF;
    own := pg_current_xact_id_if_assigned();
    -- One statement uses one snapshot: the deltas that it sums up are those of the snapshot that it records. If the sums
    -- come from another cluster, all of them are written again: this cluster will use their transaction ids itself.
    WITH deltas AS (
        DELETE FROM "vsync".cid_totals
        WHERE NOT cid_totals.folded AND transaction_id BETWEEN fold.first AND '18446744073709551615'::xid8
        RETURNING ispb, key_type, sync_status, records, cid_xor
    ), late AS (
        DELETE FROM "vsync".cid_totals
        WHERE NOT cid_totals.folded AND transaction_id < fold.first AND transaction_id = ANY (fold.late)
        RETURNING ispb, key_type, sync_status, records, cid_xor
    ), fresh AS (
        SELECT * FROM deltas UNION ALL SELECT * FROM late
    ), sums AS (
        DELETE FROM "vsync".cid_totals AS t USING (
            SELECT ispb, key_type FROM fresh
            UNION
            SELECT ispb, key_type FROM "vsync".cid_totals WHERE cid_totals.folded AND NOT fold.is_ours) AS g
        WHERE t.folded AND t.ispb = g.ispb AND t.key_type = g.key_type
        RETURNING t.ispb, t.key_type, t.sync_status, t.records, t.cid_xor
    ), kept AS (
        INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records, cid_xor, folded)
        SELECT ispb, key_type, sync_status, sum(records), bit_xor(cid_xor), true
        FROM (SELECT * FROM fresh UNION ALL SELECT * FROM sums) AS every
        GROUP BY ispb, key_type, sync_status
        HAVING sum(records) <> 0 OR bit_xor(cid_xor) <> repeat('0', 256)::bit(256)
    ), before AS (
        DELETE FROM "vsync".cid_folds
    ), noted AS (
        INSERT INTO "vsync".cid_folds (snapshot, feed, feed_id, feed_began, within)
        SELECT pg_current_snapshot(), fold.feed, fold.feed_id, fold.feed_began,
               CASE WHEN own < pg_snapshot_xmax(pg_current_snapshot()) THEN own END
    )
    SELECT count(*) INTO folded FROM fresh;
    -- The xmin of a row written in a subtransaction is the subtransaction's id, so the row would look like one of another
    -- cluster.
    IF NOT (SELECT is_ours FROM "vsync".last_fold) THEN
        RAISE EXCEPTION 'fold_cid_totals cannot run in a subtransaction' USING ERRCODE = 'invalid_transaction_state',
            HINT = 'Call it outside of savepoints and of blocks with EXCEPTION.';
    END IF;
    RETURN folded;
END
$$;
COMMENT ON FUNCTION vsync.fold_cid_totals() IS 'Sums up the deltas of cid_totals and returns their number; 0 if another session is doing so.';
CREATE FUNCTION vsync.fold_evaluation_rollups() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION vsync.fold_evaluation_rollups() IS 'Adds the deltas to the folded rows and returns their number; 0 if another session is doing so.';
CREATE FUNCTION vsync.fold_payment_totals() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    folded bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('vsyncd fold_payment_totals "vsync"', 0))
       OR NOT EXISTS (SELECT FROM "vsync".unfolded_payments) THEN
        RETURN 0;
    END IF;
    WITH deltas AS (
        DELETE FROM "vsync".payment_deltas
        WHERE transaction_id BETWEEN
            (SELECT CASE WHEN "vsync".is_of_this_cluster(xmin, transaction_id) THEN horizon ELSE '0'::xid8 END
             FROM "vsync".payment_fold)
            AND '18446744073709551615'::xid8
        RETURNING hour, processor, payments, amount
    ), hours AS (
        INSERT INTO "vsync".payment_hours AS h (hour, processor, payments, amount)
        SELECT hour, processor, sum(payments), sum(amount) FROM deltas GROUP BY hour, processor
        ON CONFLICT (hour, processor) DO UPDATE
            SET payments = h.payments + excluded.payments, amount = h.amount + excluded.amount
    ), totals AS (
        INSERT INTO "vsync".payment_totals AS t (processor, payments, amount)
        SELECT processor, sum(payments), sum(amount) FROM deltas GROUP BY processor
        ON CONFLICT (processor) DO UPDATE
            SET payments = t.payments + excluded.payments, amount = t.amount + excluded.amount
    ), noted AS (
        UPDATE "vsync".payment_fold
        SET transaction_id = pg_current_xact_id(), horizon = pg_snapshot_xmin(pg_current_snapshot())
    )
    SELECT count(*) INTO folded FROM deltas;
    RETURN folded;
END
$$;
COMMENT ON FUNCTION vsync.fold_payment_totals() IS 'Adds the deltas to the totals and returns their number; 0 if another session is doing so.';
CREATE FUNCTION vsync.grant_core_to_service(service name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    record_table regclass;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA "vsync" TO %I', service);
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".request_ids TO %I', service);
    EXECUTE format('GRANT SELECT, INSERT (id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb,
                    key_value, cid, payload) ON "vsync".audit_logs TO %I', service);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON "vsync".job_runs TO %I', service);
    EXECUTE format('GRANT SELECT ON "vsync".partitioned_tables TO %I', service);
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".tenant_key TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".uuid_v7(timestamptz), "vsync".uuid_v7_floor(timestamptz),
                    "vsync".uuid_v7_time(uuid), "vsync".is_of_this_cluster(xid, xid8), "vsync".make_partitions(),
                    "vsync".partitions() TO %I', service);
    -- The migration tool creates these tables. They do not exist if the files were run by hand.
    FOREACH record_table IN ARRAY ARRAY[to_regclass('"vsync".schema_migrations'),
                                        to_regclass('"vsync".schema_migrations_dirty')] LOOP
        IF record_table IS NOT NULL THEN
            EXECUTE format('GRANT SELECT ON %s TO %I', record_table, service);
        END IF;
    END LOOP;
END
$$;
CREATE FUNCTION vsync.grant_credits_to_service(service name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".credit_accounts, "vsync".credit_transactions,
                    "vsync".credit_reservations TO %I', service);
    EXECUTE format('GRANT UPDATE (available, reserved, transactions, closed_at) ON "vsync".credit_accounts TO %I', service);
    EXECUTE format('GRANT UPDATE (state, closed_at) ON "vsync".credit_reservations TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".tenants_with_expired_credits(),
                    "vsync".credit_balances_step(numeric[], numeric, numeric, bigint, numeric, numeric),
                    "vsync".credit_balances(numeric, numeric, bigint, numeric, numeric) TO %I', service);
END
$$;
CREATE FUNCTION vsync.grant_iocs_to_service(service name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON "vsync".iocs TO %I', service);
    EXECUTE format('GRANT UPDATE (audit_id, created_at, expires_at, revision, confidence, source, tags)
                    ON "vsync".iocs TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".delete_expired_iocs(integer) TO %I', service);
END
$$;
CREATE FUNCTION vsync.grant_payments_health_to_service(service name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON "vsync".processor_health TO %I', service);
END
$$;
CREATE FUNCTION vsync.grant_payments_to_service(service name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".payments, "vsync".payment_keys TO %I', service);
    EXECUTE format('GRANT SELECT ON "vsync".payment_deltas, "vsync".payment_hours, "vsync".payment_totals,
                    "vsync".payment_fold, "vsync".unfolded_payments TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".fold_payment_totals(), "vsync".drop_payment_keys(integer) TO %I', service);
END
$$;
CREATE FUNCTION vsync.grant_shadow_to_service(service name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
CREATE FUNCTION vsync.grant_to_service(service name, sets text[] DEFAULT NULL::text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    grant_function regproc;
BEGIN
    FOR grant_function IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = '"vsync"'::regnamespace AND proname LIKE 'grant\_%\_to\_service'
          AND (sets IS NULL OR proname ~ format('^grant_(%s)_(.*_)?to_service$', array_to_string(sets, '|')))
        ORDER BY proname
    LOOP
        EXECUTE format('SELECT %s($1)', grant_function) USING service;
    END LOOP;
END
$_$;
COMMENT ON FUNCTION vsync.grant_to_service(service name, sets text[]) IS 'Grants a role what the service needs: in the tables of the named sets of migrations, or in those of all sets.';
CREATE FUNCTION vsync.grant_vsync_cache_to_service(service name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('GRANT SELECT ON "vsync".cid_changes, "vsync".cache_epoch TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".begin_cache_epoch(), "vsync".drop_cid_changes() TO %I', service);
END
$$;
CREATE FUNCTION vsync.grant_vsync_cids_to_service(service name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON "vsync".cids, "vsync".imports, "vsync".import_chunks TO %I',
                   service);
    EXECUTE format('GRANT SELECT ON "vsync".cid_events, "vsync".cid_totals, "vsync".cid_folds, "vsync".last_fold,
                    "vsync".cid_deltas, "vsync".cid_sums, "vsync".cids_readable TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".cid_bits(bytea), "vsync".fold_cid_totals() TO %I', service);
END
$$;
CREATE FUNCTION vsync.grant_vsync_sync_batches_to_service(service name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON "vsync".sync_batches, "vsync".sync_batch_records TO %I', service);
END
$$;
CREATE FUNCTION vsync.grant_vsync_verifications_to_service(service name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".vsync_verifications TO %I', service);
END
$$;
CREATE FUNCTION vsync.is_of_this_cluster(row_xmin xid, transaction_id xid8) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (((row_xmin)::text)::bigint = ((((transaction_id)::text)::numeric % ('4294967296'::bigint)::numeric))::bigint);
COMMENT ON FUNCTION vsync.is_of_this_cluster(row_xmin xid, transaction_id xid8) IS 'Returns whether the transaction that a row names has written it. False after a restore, and on a subscriber.';
CREATE FUNCTION vsync.latency_bounds() RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY[(100)::bigint, (150)::bigint, (200)::bigint, (300)::bigint, (500)::bigint, (700)::bigint, (1000)::bigint, (1500)::bigint, (2000)::bigint, (3000)::bigint, (5000)::bigint, (7000)::bigint, (10000)::bigint, (15000)::bigint, (20000)::bigint, (30000)::bigint, (50000)::bigint, (70000)::bigint, (100000)::bigint, (150000)::bigint, (200000)::bigint, (300000)::bigint, (500000)::bigint, (700000)::bigint, (1000000)::bigint, (1500000)::bigint, (2000000)::bigint, (3000000)::bigint, (5000000)::bigint, (7000000)::bigint, (10000000)::bigint, (15000000)::bigint, (20000000)::bigint, (30000000)::bigint, (50000000)::bigint, (70000000)::bigint, (100000000)::bigint, (150000000)::bigint, (200000000)::bigint, (300000000)::bigint, (500000000)::bigint, (700000000)::bigint];
COMMENT ON FUNCTION vsync.latency_bounds() IS 'Returns the bounds between the buckets of a histogram, in microseconds.';
CREATE FUNCTION vsync.latency_quantile(histogram bigint[], quantile double precision) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (SELECT (round(((cumulative.lower_us)::double precision + ((((cumulative.upper_us - cumulative.lower_us))::double precision * GREATEST(((latency_quantile.quantile * cumulative.total) - cumulative.below), (0)::double precision)) / (cumulative.latencies)::double precision))))::bigint AS round FROM (SELECT buckets.latencies, (sum(buckets.latencies) OVER ())::double precision AS total, ((sum(buckets.latencies) OVER (ORDER BY buckets.bucket) - (buckets.latencies)::numeric))::double precision AS below, COALESCE((vsync.latency_bounds())[(buckets.bucket - 1)], (0)::bigint) AS lower_us, COALESCE((vsync.latency_bounds())[buckets.bucket], '3600000000'::bigint) AS upper_us FROM unnest(latency_quantile.histogram) WITH ORDINALITY buckets(latencies, bucket)) cumulative WHERE ((cumulative.latencies > 0) AND ((cumulative.below + (cumulative.latencies)::double precision) >= (latency_quantile.quantile * cumulative.total))) ORDER BY cumulative.below LIMIT 1);
COMMENT ON FUNCTION vsync.latency_quantile(histogram bigint[], quantile double precision) IS 'Returns a quantile (0 to 1) of a histogram in microseconds, interpolated within its bucket, or NULL if it is empty.';
CREATE FUNCTION vsync.make_partition(parent text, suffix text, lower_bound text, upper_bound text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    partition text := parent || '_' || suffix;
BEGIN
    IF to_regclass(format('"vsync".%I', partition)) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE "vsync".%I (LIKE "vsync".%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition, parent);
    EXECUTE format('ALTER TABLE "vsync".%I ATTACH PARTITION "vsync".%I FOR VALUES FROM (%L) TO (%L)',
                   parent, partition, lower_bound, upper_bound);
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = format('"vsync".%I', parent)::regclass
                                        AND tgfoid = '"vsync".refuse_truncate'::regproc) THEN
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON "vsync".%I
                        FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate()', parent || '_truncated', partition);
    END IF;
    RETURN true;
END
$$;
CREATE FUNCTION vsync.make_partitions() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $$
DECLARE
    registered record;
    begins     timestamp;
    ends       timestamp;
    made       integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('vsyncd make_partitions "vsync"', 0));
    FOR registered IN
        SELECT r.table_name, r.period, key.atttypid AS key_type,
               CASE r.period WHEN 'week' THEN interval '8 weeks' ELSE interval '3 months' END AS ahead,
               CASE r.period WHEN 'week' THEN 'IYYY_"w"IW' ELSE 'YYYY_MM' END AS suffix
        FROM "vsync".partitioned_tables AS r
        JOIN pg_class AS parent ON parent.relname = r.table_name AND parent.relnamespace = '"vsync"'::regnamespace
        JOIN pg_partitioned_table AS partitioned ON partitioned.partrelid = parent.oid
        JOIN pg_attribute AS key ON key.attrelid = parent.oid AND key.attnum = partitioned.partattrs[0]
        ORDER BY r.table_name
    LOOP
        -- The first partition is that of yesterday, because a client's clock may be slow.
        FOR begins IN SELECT generate_series(date_trunc(registered.period, localtimestamp - interval '1 day'),
                                             localtimestamp + registered.ahead, ('1 ' || registered.period)::interval)
        LOOP
            ends := begins + ('1 ' || registered.period)::interval;
            made := made + "vsync".make_partition(
                registered.table_name, to_char(begins, registered.suffix),
                CASE registered.key_type WHEN 'uuid'::regtype THEN "vsync".uuid_v7_floor(begins)::text
                    WHEN 'date'::regtype THEN begins::date::text ELSE begins::timestamptz::text END,
                CASE registered.key_type WHEN 'uuid'::regtype THEN "vsync".uuid_v7_floor(ends)::text
                    WHEN 'date'::regtype THEN ends::date::text ELSE ends::timestamptz::text END)::integer;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
COMMENT ON FUNCTION vsync.make_partitions() IS 'Creates the partitions of the next eight weeks or three months for every registered table. Returns their number.';
CREATE FUNCTION vsync.note_added() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF EXISTS (SELECT FROM new_rows OFFSET 8) THEN
        INSERT INTO "vsync".cid_changes (added) VALUES (true);
    ELSIF EXISTS (SELECT FROM new_rows) THEN
        INSERT INTO "vsync".cid_changes (added, cids, keys)
        SELECT true, string_agg(cid, ''), string_agg("vsync".cache_key(key_value, ispb), '') FROM new_rows;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION vsync.note_removed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF EXISTS (SELECT FROM old_rows OFFSET 5000) THEN
        INSERT INTO "vsync".cid_changes (added) VALUES (false);
    ELSIF EXISTS (SELECT FROM old_rows) THEN
        INSERT INTO "vsync".cid_changes (added, cids, keys, ids)
        SELECT false, string_agg(cid, ''), string_agg("vsync".cache_key(key_value, ispb), ''),
               string_agg(uuid_send(id), '')
        FROM old_rows;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION vsync.note_updated() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF EXISTS (SELECT FROM old_rows OFFSET 5000) THEN
        INSERT INTO "vsync".cid_changes (added) VALUES (false);
    ELSIF EXISTS (SELECT FROM old_rows) THEN
        INSERT INTO "vsync".cid_changes (added, cids, keys, ids)
        SELECT false, string_agg(DISTINCT cid, ''), string_agg(DISTINCT "vsync".cache_key(key_value, ispb), ''),
               string_agg(DISTINCT uuid_send(id), '')
        FROM (SELECT id, cid, key_value, ispb FROM old_rows
              UNION ALL
              SELECT id, cid, key_value, ispb FROM new_rows) AS changed;
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION vsync.partitions() RETURNS TABLE(parent text, partition text, begins timestamp with time zone, ends timestamp with time zone, is_detaching boolean)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $_$
    SELECT parent.relname::text, leaf.relname::text,
           CASE key.atttypid WHEN 'uuid'::regtype THEN "vsync".uuid_v7_time(bounds[1]::uuid) ELSE bounds[1]::timestamptz END,
           CASE key.atttypid WHEN 'uuid'::regtype THEN "vsync".uuid_v7_time(bounds[2]::uuid) ELSE bounds[2]::timestamptz END,
           inherits.inhdetachpending
    FROM "vsync".partitioned_tables AS registered
    JOIN pg_class AS parent ON parent.relname = registered.table_name AND parent.relnamespace = '"vsync"'::regnamespace
    JOIN pg_partitioned_table AS partitioned ON partitioned.partrelid = parent.oid
    JOIN pg_attribute AS key ON key.attrelid = parent.oid AND key.attnum = partitioned.partattrs[0]
    JOIN pg_inherits AS inherits ON inherits.inhparent = parent.oid
    JOIN pg_class AS leaf ON leaf.oid = inherits.inhrelid
    CROSS JOIN LATERAL
        regexp_match(pg_get_expr(leaf.relpartbound, leaf.oid), $re$FROM \('([^']+)'\) TO \('([^']+)'\)$re$) AS bounds
    ORDER BY 1, 3
$_$;
COMMENT ON FUNCTION vsync.partitions() IS 'Returns every partition of the registered tables with its time range. is_detaching: DETACH CONCURRENTLY was interrupted.';
CREATE FUNCTION vsync.payments_inserted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO "vsync".payment_keys (correlation_id, payment_id)
    SELECT correlation_id, id FROM new_rows WHERE NOT EXISTS (
        SELECT FROM "vsync".payment_keys AS k
        WHERE k.payment_id = new_rows.id AND k.correlation_id = new_rows.correlation_id
        OFFSET 0);  -- one index lookup for each row
    INSERT INTO "vsync".payment_deltas (hour, processor, payments, amount)
    SELECT date_trunc('hour', processed_at, 'UTC'), processor, count(*), sum(amount) FROM new_rows GROUP BY 1, 2;
    RETURN NULL;
END
$$;
CREATE FUNCTION vsync.rebuild_cid_totals() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    repaired bigint;
BEGIN
    -- The snapshot must be taken after the lock. Otherwise a difference that another rebuild has repaired would be
    -- repaired twice.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'rebuild_cid_totals needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state',
            HINT = 'BEGIN ISOLATION LEVEL READ COMMITTED; SELECT "vsync".rebuild_cid_totals(); COMMIT;';
    END IF;
    -- Two concurrent rebuilds would repair the same difference twice. A concurrent fold does not matter: it changes no sum.
    PERFORM pg_advisory_xact_lock(hashtextextended('vsyncd rebuild_cid_totals "vsync"', 0));
    WITH differing AS (
        INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records, cid_xor)
        SELECT ispb, key_type, sync_status, sum(records), bit_xor(cid_xor)
        FROM (SELECT ispb, key_type, sync_status, count(*) AS records, bit_xor("vsync".cid_bits(cid)) AS cid_xor
              FROM "vsync".cids GROUP BY ispb, key_type, sync_status
              UNION ALL
              SELECT ispb, key_type, sync_status, -records, cid_xor FROM "vsync".cid_sums) AS difference
        GROUP BY ispb, key_type, sync_status
        HAVING sum(records) <> 0 OR bit_xor(cid_xor) <> repeat('0', 256)::bit(256)
        RETURNING ispb, key_type
    )
    SELECT count(DISTINCT (ispb, key_type)) INTO repaired FROM differing;
    RETURN repaired;
END
$$;
COMMENT ON FUNCTION vsync.rebuild_cid_totals() IS 'Corrects counts and VSyncs to those of a full scan, in one snapshot. Returns how many (ispb, key type) were wrong.';
CREATE FUNCTION vsync.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE FUNCTION vsync.refuse_key_removal() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF EXISTS (SELECT FROM "vsync".payments WHERE id = OLD.payment_id) THEN
        RAISE EXCEPTION 'the payment of this key exists' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN OLD;
END
$$;
CREATE FUNCTION vsync.refuse_time() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'the time of the audit entry, %, differs by more than 5 minutes from the clock of the database',
        NEW.created_at USING ERRCODE = 'VS001';
END
$$;
CREATE FUNCTION vsync.refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION '%.% cannot be truncated: delete the rows', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE FUNCTION vsync.register_partitioned_table(table_name text, period text, retention_setting text DEFAULT NULL::text, retention_days integer DEFAULT NULL::integer) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    INSERT INTO "vsync".partitioned_tables VALUES (table_name, period, retention_setting, retention_days);
    SELECT "vsync".make_partitions();
$$;
COMMENT ON FUNCTION vsync.register_partitioned_table(table_name text, period text, retention_setting text, retention_days integer) IS 'Registers a partitioned table and creates its first partitions.';
CREATE FUNCTION vsync.restrict_to_tenant(table_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('ALTER TABLE "vsync".%I ENABLE ROW LEVEL SECURITY', table_name);
    EXECUTE format('CREATE POLICY %I ON "vsync".%I USING (tenant = decode(current_setting(''vsync.tenant'', true), ''hex''))',
                   table_name || '_tenant', table_name);
END
$$;
COMMENT ON FUNCTION vsync.restrict_to_tenant(table_name text) IS 'Enables row-level security on a table with a column tenant. Rows of another tenant can be neither read nor written.';
CREATE FUNCTION vsync.tenants_with_expired_credits() RETURNS SETOF bytea
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH RECURSIVE tenants AS (
        (SELECT tenant FROM "vsync".credit_reservations WHERE state = 1 ORDER BY tenant LIMIT 1)
        UNION ALL
        SELECT (SELECT r.tenant FROM "vsync".credit_reservations AS r
                WHERE r.tenant > tenants.tenant AND r.state = 1 ORDER BY r.tenant LIMIT 1)
        FROM tenants WHERE tenants.tenant IS NOT NULL
    )
    SELECT tenant FROM tenants
    WHERE (SELECT r.expires_at FROM "vsync".credit_reservations AS r
           WHERE r.tenant = tenants.tenant AND r.state = 1 ORDER BY r.expires_at LIMIT 1) <= now()
$$;
COMMENT ON FUNCTION vsync.tenants_with_expired_credits() IS 'Returns the tenants with open reservations that have expired.';
CREATE FUNCTION vsync.unregister_partitioned_table(table_name text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    DELETE FROM "vsync".partitioned_tables AS r WHERE r.table_name = unregister_partitioned_table.table_name;
$$;
COMMENT ON FUNCTION vsync.unregister_partitioned_table(table_name text) IS 'Removes a table from the registry. Its partitions remain.';
CREATE FUNCTION vsync.uuid_v7(at timestamp with time zone) RETURNS uuid
    LANGUAGE sql STRICT PARALLEL SAFE
    RETURN (((lpad(to_hex((floor((EXTRACT(epoch FROM at) * (1000)::numeric)))::bigint), 12, '0'::text) || '7'::text) || substr(replace((gen_random_uuid())::text, '-'::text, ''::text), 14)))::uuid;
COMMENT ON FUNCTION vsync.uuid_v7(at timestamp with time zone) IS 'Returns a new id for rows inserted by hand. The service generates its own ids.';
CREATE FUNCTION vsync.uuid_v7_floor(at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN ((lpad(to_hex((floor((EXTRACT(epoch FROM at) * (1000)::numeric)))::bigint), 12, '0'::text) || '00000000000000000000'::text))::uuid;
COMMENT ON FUNCTION vsync.uuid_v7_floor(at timestamp with time zone) IS 'Returns the lowest uuid of a millisecond.';
CREATE FUNCTION vsync.uuid_v7_time(id uuid) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (('1970-01-01 00:00:00'::timestamp without time zone + ('00:00:00.001'::interval * ((((((((get_byte(uuid_send(id), 0))::bigint << 40) | ((get_byte(uuid_send(id), 1))::bigint << 32)) | ((get_byte(uuid_send(id), 2))::bigint << 24)) | ((get_byte(uuid_send(id), 3) << 16))::bigint) | ((get_byte(uuid_send(id), 4) << 8))::bigint) | (get_byte(uuid_send(id), 5))::bigint))::double precision)) AT TIME ZONE 'UTC'::text);
COMMENT ON FUNCTION vsync.uuid_v7_time(id uuid) IS 'Returns the time in a UUID v7.';
CREATE AGGREGATE vsync.credit_balances(available numeric, reserved numeric, number bigint, available_change numeric, reserved_change numeric) (
    SFUNC = vsync.credit_balances_step,
    STYPE = numeric[],
    PARALLEL = safe
);
CREATE AGGREGATE vsync.latency_histogram(bigint) (
    SFUNC = vsync.add_latency,
    STYPE = bigint[],
    INITCOND = '{0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}',
    PARALLEL = safe
);
COMMENT ON AGGREGATE vsync.latency_histogram(bigint) IS 'Returns the histogram of latencies in microseconds.';
CREATE AGGREGATE vsync.sum_histograms(bigint[]) (
    SFUNC = vsync.add_histograms,
    STYPE = bigint[],
    PARALLEL = safe
);
COMMENT ON AGGREGATE vsync.sum_histograms(bigint[]) IS 'Returns the sum of histograms, bucket by bucket.';
CREATE TABLE vsync.audit_logs (
    id uuid DEFAULT vsync.uuid_v7(now()) NOT NULL,
    created_at timestamp with time zone DEFAULT date_trunc('milliseconds'::text, now()) NOT NULL,
    correlation_id text NOT NULL COLLATE pg_catalog."C",
    recorded_by text NOT NULL COLLATE pg_catalog."C",
    on_behalf_of text COLLATE pg_catalog."C",
    action text NOT NULL COLLATE pg_catalog."C",
    resource text COLLATE pg_catalog."C",
    ispb text COLLATE pg_catalog."C",
    key_value text COLLATE pg_catalog."C",
    cid bytea,
    payload jsonb,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT audit_logs_action CHECK (((char_length(action) >= 1) AND (char_length(action) <= 100))),
    CONSTRAINT audit_logs_cid_length CHECK ((octet_length(cid) = 32)),
    CONSTRAINT audit_logs_correlation_id CHECK (((correlation_id ~ '^[!-~]+$'::text) AND (octet_length(correlation_id) <= 128))),
    CONSTRAINT audit_logs_created_at_is_the_ids CHECK ((created_at = vsync.uuid_v7_time(id))),
    CONSTRAINT audit_logs_ispb CHECK ((ispb ~ '^[0-9]{8}$'::text)),
    CONSTRAINT audit_logs_key_value CHECK (((char_length(key_value) >= 1) AND (char_length(key_value) <= 77))),
    CONSTRAINT audit_logs_on_behalf_of CHECK (((char_length(on_behalf_of) >= 1) AND (char_length(on_behalf_of) <= 200))),
    CONSTRAINT audit_logs_payload CHECK ((jsonb_typeof(payload) = 'object'::text)),
    CONSTRAINT audit_logs_recorded_by CHECK (((char_length(recorded_by) >= 1) AND (char_length(recorded_by) <= 200))),
    CONSTRAINT audit_logs_resource CHECK (((char_length(resource) >= 1) AND (char_length(resource) <= 255)))
)
PARTITION BY RANGE (id);
COMMENT ON COLUMN vsync.audit_logs.recorded_by IS 'The principal whose call wrote the entry. The service sets it.';
COMMENT ON COLUMN vsync.audit_logs.on_behalf_of IS 'The actor that the caller named, which nothing proves.';
COMMENT ON COLUMN vsync.audit_logs.resource IS 'What the entry is about, as <collection>/<id>, for example payments/018f...';
COMMENT ON COLUMN vsync.audit_logs.ispb IS 'The participant that the entry is about.';
COMMENT ON COLUMN vsync.audit_logs.key_value IS 'The key of the CID that the entry is about.';
COMMENT ON COLUMN vsync.audit_logs.recorded_at IS 'The time of the insertion by the clock of the database. The service cannot set it.';
CREATE UNLOGGED TABLE vsync.cache_epoch (
    single boolean DEFAULT true NOT NULL,
    secret bytea NOT NULL,
    dropped xid8 DEFAULT '0'::xid8 NOT NULL,
    born pg_snapshot DEFAULT pg_current_snapshot() NOT NULL,
    CONSTRAINT cache_epoch_one_row CHECK (single),
    CONSTRAINT cache_epoch_secret CHECK ((octet_length(secret) = 32))
);
COMMENT ON COLUMN vsync.cache_epoch.dropped IS 'Changes of transactions up to this one may be missing in cid_changes';
COMMENT ON COLUMN vsync.cache_epoch.born IS 'Transactions running then may have been prepared before a crash, and their changes are not in cid_changes';
CREATE UNLOGGED TABLE vsync.cid_changes (
    transaction_id xid8 DEFAULT pg_current_xact_id() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    added boolean NOT NULL,
    cids bytea,
    keys bytea,
    ids bytea
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000', autovacuum_vacuum_insert_threshold='2000', autovacuum_vacuum_insert_scale_factor='0');
ALTER TABLE ONLY vsync.cid_changes ALTER COLUMN cids SET STORAGE EXTERNAL;
ALTER TABLE ONLY vsync.cid_changes ALTER COLUMN keys SET STORAGE EXTERNAL;
ALTER TABLE ONLY vsync.cid_changes ALTER COLUMN ids SET STORAGE EXTERNAL;
CREATE TABLE vsync.cid_folds (
    number bigint NOT NULL,
    transaction_id xid8 DEFAULT pg_current_xact_id() NOT NULL,
    snapshot pg_snapshot NOT NULL,
    feed integer NOT NULL,
    feed_id uuid DEFAULT gen_random_uuid() NOT NULL,
    feed_began timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    within xid8
);
COMMENT ON COLUMN vsync.cid_folds.feed IS 'The value of cid_events.feed for new events. It changes after a restore.';
COMMENT ON COLUMN vsync.cid_folds.within IS 'The transaction of the fold, if it had written before: its snapshot does not name it, and it may write more';
CREATE TABLE vsync.cid_totals (
    ispb text NOT NULL COLLATE pg_catalog."C",
    key_type smallint NOT NULL,
    sync_status smallint NOT NULL,
    folded boolean DEFAULT false NOT NULL,
    records bigint NOT NULL,
    transaction_id xid8 DEFAULT pg_current_xact_id() NOT NULL,
    seq bigint NOT NULL,
    cid_xor bit(256) DEFAULT (repeat('0'::text, 256))::bit(256) NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000', autovacuum_vacuum_insert_threshold='2000', autovacuum_vacuum_insert_scale_factor='0');
CREATE VIEW vsync.last_fold AS
 SELECT feed,
    feed_id,
    feed_began,
    is_ours,
        CASE
            WHEN is_ours THEN pg_snapshot_xmax(snapshot)
            ELSE '0'::xid8
        END AS first,
        CASE
            WHEN is_ours THEN (ARRAY( SELECT pg_snapshot_xip(fold.snapshot) AS pg_snapshot_xip) || within)
            ELSE '{}'::xid8[]
        END AS late
   FROM ( SELECT cid_folds.number,
            cid_folds.transaction_id,
            cid_folds.snapshot,
            cid_folds.feed,
            cid_folds.feed_id,
            cid_folds.feed_began,
            cid_folds.within,
            vsync.is_of_this_cluster(cid_folds.xmin, cid_folds.transaction_id) AS is_ours
           FROM vsync.cid_folds
          ORDER BY cid_folds.number DESC
         LIMIT 1) fold;
CREATE VIEW vsync.cid_deltas AS
 SELECT cid_totals.ispb,
    cid_totals.key_type,
    cid_totals.sync_status,
    cid_totals.records,
    cid_totals.cid_xor
   FROM vsync.cid_totals
  WHERE ((NOT cid_totals.folded) AND ((cid_totals.transaction_id >= ( SELECT last_fold.first
           FROM vsync.last_fold)) AND (cid_totals.transaction_id <= '18446744073709551615'::xid8)))
UNION ALL
 SELECT cid_totals.ispb,
    cid_totals.key_type,
    cid_totals.sync_status,
    cid_totals.records,
    cid_totals.cid_xor
   FROM vsync.cid_totals
  WHERE ((NOT cid_totals.folded) AND (cid_totals.transaction_id = ANY (( SELECT last_fold.late
           FROM vsync.last_fold)::xid8[])));
COMMENT ON VIEW vsync.cid_deltas IS 'The changes since the last fold.';
CREATE TABLE vsync.cid_events (
    seq bigint NOT NULL,
    transaction_id xid8 DEFAULT pg_current_xact_id() NOT NULL,
    horizon xid8 DEFAULT pg_snapshot_xmin(pg_current_snapshot()) NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    audit_id uuid,
    feed integer DEFAULT 1 NOT NULL,
    key_type smallint NOT NULL,
    change smallint NOT NULL,
    ispb text NOT NULL COLLATE pg_catalog."C",
    cid bytea NOT NULL,
    CONSTRAINT cid_events_change CHECK (((change >= 1) AND (change <= 2))),
    CONSTRAINT cid_events_cid_length CHECK ((octet_length(cid) = 32)),
    CONSTRAINT cid_events_key_type CHECK (((key_type >= 1) AND (key_type <= 5)))
)
PARTITION BY RANGE (created_at);
COMMENT ON COLUMN vsync.cid_events.horizon IS 'Every transaction below it had ended when the event was written';
COMMENT ON COLUMN vsync.cid_events.audit_id IS 'NULL: changed by hand, without the service';
COMMENT ON COLUMN vsync.cid_events.change IS '1 ADDED, 2 REMOVED';
ALTER TABLE vsync.cid_events ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME vsync.cid_events_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
ALTER TABLE vsync.cid_folds ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME vsync.cid_folds_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE VIEW vsync.cid_sums AS
 SELECT cid_totals.ispb,
    cid_totals.key_type,
    cid_totals.sync_status,
    cid_totals.records,
    cid_totals.cid_xor
   FROM vsync.cid_totals
  WHERE cid_totals.folded
UNION ALL
 SELECT cid_deltas.ispb,
    cid_deltas.key_type,
    cid_deltas.sync_status,
    cid_deltas.records,
    cid_deltas.cid_xor
   FROM vsync.cid_deltas;
COMMENT ON VIEW vsync.cid_sums IS 'To be added up: counts and XOR of the CIDs by ispb, key type and status.';
ALTER TABLE vsync.cid_totals ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME vsync.cid_totals_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE vsync.cids (
    id uuid DEFAULT vsync.uuid_v7(now()) NOT NULL,
    created_at timestamp with time zone DEFAULT date_trunc('milliseconds'::text, now()) NOT NULL,
    updated_at timestamp with time zone DEFAULT date_trunc('milliseconds'::text, now()) NOT NULL,
    synced_at timestamp with time zone,
    revision bigint DEFAULT 1 NOT NULL,
    key_type smallint NOT NULL,
    account_type smallint NOT NULL,
    sync_status smallint DEFAULT 1 NOT NULL,
    cid bytea NOT NULL,
    key_value text NOT NULL COLLATE pg_catalog."C",
    ispb text NOT NULL COLLATE pg_catalog."C",
    branch text COLLATE pg_catalog."C",
    account_number text NOT NULL COLLATE pg_catalog."C",
    tax_id text NOT NULL COLLATE pg_catalog."C",
    dict_request_id uuid,
    last_error text,
    CONSTRAINT cids_account_number CHECK (((account_number ~ '^[0-9]+$'::text) AND (octet_length(account_number) <= 20))),
    CONSTRAINT cids_account_type CHECK (((account_type >= 1) AND (account_type <= 4))),
    CONSTRAINT cids_branch CHECK (((branch ~ '^[0-9]+$'::text) AND (octet_length(branch) <= 10))),
    CONSTRAINT cids_cid_length CHECK ((octet_length(cid) = 32)),
    CONSTRAINT cids_created_at_is_the_ids CHECK ((created_at = vsync.uuid_v7_time(id))),
    CONSTRAINT cids_ispb CHECK ((ispb ~ '^[0-9]{8}$'::text)),
    CONSTRAINT cids_key_type CHECK (((key_type >= 1) AND (key_type <= 5))),
    CONSTRAINT cids_key_value CHECK (((octet_length(key_value) <= 77) AND
CASE key_type
    WHEN 1 THEN (key_value ~ '^[0-9]{11}$'::text)
    WHEN 2 THEN (key_value ~ '^[0-9A-Z]{12}[0-9]{2}$'::text)
    WHEN 3 THEN ((key_value ~ '^\+[1-9][0-9]+$'::text) AND (octet_length(key_value) <= 16))
    WHEN 4 THEN (key_value ~ '^[a-z0-9.!#$%&''*+/=?^_`{|}~-]+@[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'::text)
    WHEN 5 THEN (key_value ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'::text)
    ELSE NULL::boolean
END)),
    CONSTRAINT cids_last_error CHECK ((((sync_status = 3) = (last_error IS NOT NULL)) AND (char_length(last_error) <= 1000))),
    CONSTRAINT cids_revision CHECK ((revision >= 1)),
    CONSTRAINT cids_sync_status CHECK (((sync_status >= 1) AND (sync_status <= 3))),
    CONSTRAINT cids_synced_at CHECK (((sync_status <> 2) OR (synced_at IS NOT NULL))),
    CONSTRAINT cids_tax_id CHECK ((tax_id ~ '^([0-9]{11}|[0-9A-Z]{12}[0-9]{2})$'::text))
);
CREATE VIEW vsync.cids_readable WITH (security_invoker='true') AS
 SELECT id,
    encode(cid, 'hex'::text) AS cid,
    (ARRAY['CPF'::text, 'CNPJ'::text, 'PHONE'::text, 'EMAIL'::text, 'EVP'::text])[key_type] AS key_type,
    key_value,
    ispb,
    branch,
    account_number,
    (ARRAY['CACC'::text, 'SVGS'::text, 'TRAN'::text, 'SLRY'::text])[account_type] AS account_type,
    tax_id,
    dict_request_id,
    (ARRAY['PENDING'::text, 'SYNCED'::text, 'FAILED'::text])[sync_status] AS sync_status,
    (created_at AT TIME ZONE 'UTC'::text) AS created_at,
    (updated_at AT TIME ZONE 'UTC'::text) AS updated_at,
    (synced_at AT TIME ZONE 'UTC'::text) AS synced_at,
    last_error,
    revision
   FROM vsync.cids;
COMMENT ON VIEW vsync.cids_readable IS 'cids for psql: hexadecimal CIDs, names of enumerations, times in UTC.';
CREATE TABLE vsync.credit_accounts (
    tenant bytea NOT NULL,
    opened_at timestamp with time zone NOT NULL,
    closed_at timestamp with time zone,
    transactions bigint DEFAULT 0 NOT NULL,
    available numeric(18,2) DEFAULT 0 NOT NULL,
    reserved numeric(18,2) DEFAULT 0 NOT NULL,
    account text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT credit_accounts_account CHECK (((char_length(account) >= 1) AND (char_length(account) <= 100))),
    CONSTRAINT credit_accounts_available CHECK (((available >= (0)::numeric) AND (available <> 'NaN'::numeric))),
    CONSTRAINT credit_accounts_closed CHECK (((closed_at IS NULL) OR ((available = (0)::numeric) AND (reserved = (0)::numeric)))),
    CONSTRAINT credit_accounts_limit CHECK (((available + reserved) <= 9999999999999999.99)),
    CONSTRAINT credit_accounts_reserved CHECK (((reserved >= (0)::numeric) AND (reserved <> 'NaN'::numeric))),
    CONSTRAINT credit_accounts_tenant CHECK ((octet_length(tenant) = 32)),
    CONSTRAINT credit_accounts_transactions CHECK ((transactions >= 0))
)
WITH (fillfactor='50');
COMMENT ON COLUMN vsync.credit_accounts.tenant IS 'The HMAC of the tenant name.';
COMMENT ON COLUMN vsync.credit_accounts.transactions IS 'The number of the last row in the ledger.';
CREATE VIEW vsync.content_digest_credit_accounts AS
 SELECT ((count(*) || ':'::text) || COALESCE((bit_xor((('x'::text || md5(concat_ws(''::text, encode(tenant, 'hex'::text), account, available, reserved, transactions, EXTRACT(epoch FROM opened_at), EXTRACT(epoch FROM closed_at)))))::bit(128)))::text, ''::text)) AS digest
   FROM vsync.credit_accounts;
CREATE TABLE vsync.credit_reservations (
    tenant bytea NOT NULL,
    id uuid NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    closed_at timestamp with time zone,
    state smallint DEFAULT 1 NOT NULL,
    amount numeric(18,2) NOT NULL,
    account text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT credit_reservations_account CHECK (((char_length(account) >= 1) AND (char_length(account) <= 100))),
    CONSTRAINT credit_reservations_amount CHECK (((amount > (0)::numeric) AND (amount <> 'NaN'::numeric))),
    CONSTRAINT credit_reservations_closed CHECK (((closed_at IS NULL) = (state = 1))),
    CONSTRAINT credit_reservations_expires_at CHECK (isfinite(expires_at)),
    CONSTRAINT credit_reservations_state CHECK (((state >= 1) AND (state <= 4))),
    CONSTRAINT credit_reservations_tenant CHECK ((octet_length(tenant) = 32))
)
WITH (fillfactor='70');
COMMENT ON COLUMN vsync.credit_reservations.tenant IS 'The HMAC of the tenant name.';
CREATE VIEW vsync.content_digest_credit_reservations AS
 SELECT ((count(*) || ':'::text) || COALESCE((bit_xor((('x'::text || md5(concat_ws(''::text, encode(tenant, 'hex'::text), account, id, state, amount, EXTRACT(epoch FROM expires_at), EXTRACT(epoch FROM closed_at)))))::bit(128)))::text, ''::text)) AS digest
   FROM vsync.credit_reservations;
CREATE TABLE vsync.credit_transactions (
    tenant bytea NOT NULL,
    id uuid NOT NULL,
    number bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone,
    reservation_id uuid,
    kind smallint NOT NULL,
    amount numeric(18,2) NOT NULL,
    available_change numeric(18,2) NOT NULL,
    reserved_change numeric(18,2) NOT NULL,
    available numeric(18,2) NOT NULL,
    reserved numeric(18,2) NOT NULL,
    account text NOT NULL COLLATE pg_catalog."C",
    reference text COLLATE pg_catalog."C",
    CONSTRAINT credit_transactions_account CHECK (((char_length(account) >= 1) AND (char_length(account) <= 100))),
    CONSTRAINT credit_transactions_amount CHECK (((amount > (0)::numeric) AND (amount <> 'NaN'::numeric))),
    CONSTRAINT credit_transactions_available CHECK (((available >= (0)::numeric) AND (available <> 'NaN'::numeric))),
    CONSTRAINT credit_transactions_changes CHECK (
CASE kind
    WHEN 1 THEN ((available_change = amount) AND (reserved_change = (0)::numeric))
    WHEN 2 THEN ((available_change = (- amount)) AND (reserved_change = (0)::numeric))
    WHEN 3 THEN ((available_change = (- amount)) AND (reserved_change = amount))
    WHEN 4 THEN ((available_change >= (0)::numeric) AND (reserved_change = ((- amount) - available_change)))
    WHEN 5 THEN ((available_change = amount) AND (reserved_change = (- amount)))
    WHEN 6 THEN ((available_change = amount) AND (reserved_change = (- amount)))
    ELSE false
END),
    CONSTRAINT credit_transactions_has_expiry CHECK (((expires_at IS NULL) = (kind <> 3))),
    CONSTRAINT credit_transactions_has_reference CHECK (((reference IS NULL) = (kind = 6))),
    CONSTRAINT credit_transactions_has_reservation CHECK (((reservation_id IS NULL) = (kind = ANY (ARRAY[1, 2])))),
    CONSTRAINT credit_transactions_number CHECK ((number >= 1)),
    CONSTRAINT credit_transactions_reference CHECK (((char_length(reference) >= 1) AND (char_length(reference) <= 255))),
    CONSTRAINT credit_transactions_reserved CHECK (((reserved >= (0)::numeric) AND (reserved <> 'NaN'::numeric))),
    CONSTRAINT credit_transactions_tenant CHECK ((octet_length(tenant) = 32))
);
COMMENT ON COLUMN vsync.credit_transactions.tenant IS 'The HMAC of the tenant name.';
CREATE VIEW vsync.content_digest_credit_transactions AS
 SELECT ((count(*) || ':'::text) || COALESCE((bit_xor((('x'::text || md5(concat_ws(''::text, encode(tenant, 'hex'::text), account, number, id, kind, amount, available, reserved, reservation_id, reference, EXTRACT(epoch FROM created_at), EXTRACT(epoch FROM expires_at)))))::bit(128)))::text, ''::text)) AS digest
   FROM vsync.credit_transactions;
CREATE TABLE vsync.evaluation_rollups (
    hour timestamp with time zone NOT NULL,
    candidate_name text NOT NULL COLLATE pg_catalog."C",
    candidate_version text NOT NULL COLLATE pg_catalog."C",
    folded boolean DEFAULT false NOT NULL,
    evaluations bigint NOT NULL,
    diverged bigint NOT NULL,
    primary_latencies bigint[] NOT NULL,
    shadow_latencies bigint[] NOT NULL,
    paths text[] NOT NULL COLLATE pg_catalog."C",
    path_counts bigint[] NOT NULL,
    other_differences bigint NOT NULL,
    CONSTRAINT evaluation_rollups_candidate CHECK ((((char_length(candidate_name) >= 1) AND (char_length(candidate_name) <= 100)) AND ((char_length(candidate_version) >= 1) AND (char_length(candidate_version) <= 100)))),
    CONSTRAINT evaluation_rollups_counts CHECK (((evaluations > 0) AND ((diverged >= 0) AND (diverged <= evaluations)) AND (other_differences >= 0))),
    CONSTRAINT evaluation_rollups_hour CHECK ((hour = date_trunc('hour'::text, hour, 'UTC'::text))),
    CONSTRAINT evaluation_rollups_latencies CHECK (((cardinality(primary_latencies) = 43) AND (cardinality(shadow_latencies) = 43))),
    CONSTRAINT evaluation_rollups_paths CHECK (((cardinality(paths) <= 100) AND (cardinality(path_counts) = cardinality(paths))))
)
PARTITION BY RANGE (hour);
CREATE VIEW vsync.content_digest_evaluation_rollups AS
 SELECT lpad(to_hex(COALESCE(bit_xor(hash_record_extended(r.*, (0)::bigint)), (0)::bigint)), 16, '0'::text) AS digest
   FROM vsync.evaluation_rollups r;
CREATE TABLE vsync.evaluations (
    evaluation_id uuid NOT NULL,
    evaluated_at timestamp with time zone NOT NULL,
    candidate_name text NOT NULL COLLATE pg_catalog."C",
    candidate_version text NOT NULL COLLATE pg_catalog."C",
    input_fingerprint bytea NOT NULL,
    primary_result jsonb NOT NULL,
    shadow_result jsonb NOT NULL,
    primary_latency_us bigint NOT NULL,
    shadow_latency_us bigint NOT NULL,
    diverged boolean NOT NULL,
    differing_path_count integer NOT NULL,
    differing_paths text[] NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT evaluations_candidate_name CHECK (((char_length(candidate_name) >= 1) AND (char_length(candidate_name) <= 100))),
    CONSTRAINT evaluations_candidate_version CHECK (((char_length(candidate_version) >= 1) AND (char_length(candidate_version) <= 100))),
    CONSTRAINT evaluations_differing_path_count CHECK (((differing_path_count >= 0) AND (cardinality(differing_paths) = LEAST(differing_path_count, 100)))),
    CONSTRAINT evaluations_differing_paths CHECK (((array_position(differing_paths, NULL::text) IS NULL) AND (array_position(differing_paths, ''::text) IS NULL) AND (char_length(array_to_string(differing_paths, ''::text)) <= (255 * cardinality(differing_paths))))),
    CONSTRAINT evaluations_diverged CHECK ((diverged = (differing_path_count > 0))),
    CONSTRAINT evaluations_evaluated_at_is_the_ids CHECK ((evaluated_at = vsync.uuid_v7_time(evaluation_id))),
    CONSTRAINT evaluations_evaluation_id_is_v7 CHECK (((get_byte(uuid_send(evaluation_id), 6) >> 4) = 7)),
    CONSTRAINT evaluations_input_fingerprint CHECK ((octet_length(input_fingerprint) = 32)),
    CONSTRAINT evaluations_latencies CHECK ((((primary_latency_us >= 0) AND (primary_latency_us <= '3600000000'::bigint)) AND ((shadow_latency_us >= 0) AND (shadow_latency_us <= '3600000000'::bigint)))),
    CONSTRAINT evaluations_primary_result CHECK (((jsonb_typeof(primary_result) = 'object'::text) AND (octet_length((primary_result)::text) <= 16384))),
    CONSTRAINT evaluations_shadow_result CHECK (((jsonb_typeof(shadow_result) = 'object'::text) AND (octet_length((shadow_result)::text) <= 16384)))
)
PARTITION BY RANGE (evaluation_id);
COMMENT ON COLUMN vsync.evaluations.input_fingerprint IS 'The SHA-256 of the input.';
COMMENT ON COLUMN vsync.evaluations.primary_latency_us IS 'In microseconds.';
COMMENT ON COLUMN vsync.evaluations.differing_paths IS 'The first 100 of differing_path_count paths.';
CREATE VIEW vsync.content_digest_evaluations AS
 SELECT lpad(to_hex(COALESCE(bit_xor(hash_record_extended(e.*, (0)::bigint)), (0)::bigint)), 16, '0'::text) AS digest
   FROM vsync.evaluations e;
CREATE TABLE vsync.iocs (
    tenant bytea NOT NULL,
    audit_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    revision bigint DEFAULT 1 NOT NULL,
    type smallint NOT NULL,
    confidence smallint NOT NULL,
    value text NOT NULL COLLATE pg_catalog."C",
    source text NOT NULL COLLATE pg_catalog."C",
    tags text[] DEFAULT '{}'::text[] NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT iocs_confidence CHECK (((confidence >= 0) AND (confidence <= 100))),
    CONSTRAINT iocs_expires_at CHECK (isfinite(expires_at)),
    CONSTRAINT iocs_revision CHECK ((revision >= 1)),
    CONSTRAINT iocs_source CHECK (((char_length(source) >= 1) AND (char_length(source) <= 100))),
    CONSTRAINT iocs_tags CHECK (((cardinality(tags) <= 10) AND (array_position(tags, NULL::text) IS NULL) AND (array_position(tags, ''::text) IS NULL))),
    CONSTRAINT iocs_tenant CHECK ((octet_length(tenant) = 32)),
    CONSTRAINT iocs_type CHECK (((type >= 1) AND (type <= 8))),
    CONSTRAINT iocs_value CHECK (((char_length(value) >= 1) AND (char_length(value) <= 2048)))
);
COMMENT ON COLUMN vsync.iocs.tenant IS 'The HMAC of the tenant name.';
COMMENT ON COLUMN vsync.iocs.audit_id IS 'The audit entry of the last change, with the time of the change.';
COMMENT ON COLUMN vsync.iocs.type IS '1 IPv4, 2 IPv6, 3 domain, 4 URL, 5 e-mail, 6 SHA-256, 7 SHA-1, 8 MD5.';
COMMENT ON COLUMN vsync.iocs.value IS 'In canonical form.';
CREATE VIEW vsync.content_digest_iocs AS
 SELECT ((count(*) || ':'::text) || COALESCE((bit_xor((('x'::text || md5(concat_ws(''::text, encode(tenant, 'hex'::text), type, value, confidence, source, array_to_string(tags, ''::text), revision, audit_id, EXTRACT(epoch FROM created_at), EXTRACT(epoch FROM expires_at)))))::bit(128)))::text, ''::text)) AS digest
   FROM vsync.iocs;
CREATE TABLE vsync.payment_deltas (
    transaction_id xid8 DEFAULT pg_current_xact_id() NOT NULL,
    seq bigint NOT NULL,
    hour timestamp with time zone NOT NULL,
    payments bigint NOT NULL,
    amount numeric NOT NULL,
    processor text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT payment_deltas_amount CHECK ((amount > (0)::numeric)),
    CONSTRAINT payment_deltas_payments CHECK ((payments > 0))
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000', autovacuum_vacuum_insert_threshold='2000', autovacuum_vacuum_insert_scale_factor='0');
CREATE TABLE vsync.payment_hours (
    hour timestamp with time zone NOT NULL,
    payments bigint NOT NULL,
    amount numeric NOT NULL,
    processor text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT payment_hours_amount CHECK ((amount > (0)::numeric)),
    CONSTRAINT payment_hours_hour CHECK (((EXTRACT(epoch FROM hour) % (3600)::numeric) = (0)::numeric)),
    CONSTRAINT payment_hours_payments CHECK ((payments > 0))
)
WITH (fillfactor='50');
COMMENT ON TABLE vsync.payment_hours IS 'Number and sum of the payments of each hour (UTC) of processed_at, up to the last fold.';
CREATE VIEW vsync.content_digest_payment_totals AS
 SELECT ((count(*) || ':'::text) || COALESCE((bit_xor((('x'::text || md5(concat_ws(''::text, EXTRACT(epoch FROM hour), processor, payments, amount))))::bit(128)))::text, ''::text)) AS digest
   FROM ( SELECT every.hour,
            every.processor,
            sum(every.payments) AS payments,
            sum(every.amount) AS amount
           FROM ( SELECT payment_hours.hour,
                    payment_hours.processor,
                    payment_hours.payments,
                    payment_hours.amount
                   FROM vsync.payment_hours
                UNION ALL
                 SELECT payment_deltas.hour,
                    payment_deltas.processor,
                    payment_deltas.payments,
                    payment_deltas.amount
                   FROM vsync.payment_deltas) every
          GROUP BY every.hour, every.processor) sums;
CREATE TABLE vsync.payments (
    id uuid DEFAULT vsync.uuid_v7(now()) NOT NULL,
    created_at timestamp with time zone DEFAULT date_trunc('milliseconds'::text, now()) NOT NULL,
    requested_at timestamp with time zone NOT NULL,
    processed_at timestamp with time zone NOT NULL,
    amount numeric NOT NULL,
    correlation_id text NOT NULL COLLATE pg_catalog."C",
    processor text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT payments_amount CHECK ((((amount >= 0.01) AND (amount <= 99999999.99)) AND (scale(amount) <= 2))),
    CONSTRAINT payments_correlation_id CHECK (((char_length(correlation_id) >= 1) AND (char_length(correlation_id) <= 255))),
    CONSTRAINT payments_created_at_is_the_ids CHECK ((created_at = vsync.uuid_v7_time(id))),
    CONSTRAINT payments_processed_at CHECK (((processed_at >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND (processed_at < '9999-01-01 00:00:00+00'::timestamp with time zone))),
    CONSTRAINT payments_processor CHECK (((processor ~ '^[a-z0-9_-]+$'::text) AND (octet_length(processor) <= 50))),
    CONSTRAINT payments_requested_at CHECK (((requested_at >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND (requested_at < '9999-01-01 00:00:00+00'::timestamp with time zone)))
)
PARTITION BY RANGE (id);
CREATE VIEW vsync.content_digest_payments AS
 SELECT ((count(*) || ':'::text) || COALESCE((bit_xor((('x'::text || md5(concat_ws(''::text, id, correlation_id, processor, amount, EXTRACT(epoch FROM requested_at), EXTRACT(epoch FROM processed_at)))))::bit(128)))::text, ''::text)) AS digest
   FROM vsync.payments;
CREATE VIEW vsync.evaluation_hours AS
 SELECT evaluation_rollups.hour,
    evaluation_rollups.candidate_name,
    evaluation_rollups.candidate_version,
    evaluation_rollups.evaluations,
    evaluation_rollups.diverged,
    evaluation_rollups.primary_latencies,
    evaluation_rollups.shadow_latencies,
    evaluation_rollups.paths,
    evaluation_rollups.path_counts,
    evaluation_rollups.other_differences
   FROM vsync.evaluation_rollups
  WHERE evaluation_rollups.folded
UNION ALL
 SELECT evaluation_rollups.hour,
    evaluation_rollups.candidate_name,
    evaluation_rollups.candidate_version,
    evaluation_rollups.evaluations,
    evaluation_rollups.diverged,
    evaluation_rollups.primary_latencies,
    evaluation_rollups.shadow_latencies,
    evaluation_rollups.paths,
    evaluation_rollups.path_counts,
    evaluation_rollups.other_differences
   FROM vsync.evaluation_rollups
  WHERE (NOT evaluation_rollups.folded);
COMMENT ON VIEW vsync.evaluation_hours IS 'To be added up: counts of the evaluations by candidate and hour.';
CREATE VIEW vsync.divergence_summary AS
 SELECT candidate_name,
    candidate_version,
    hour,
    (sum(evaluations))::bigint AS evaluations,
    (sum(diverged))::bigint AS diverged,
    round((sum(diverged) / sum(evaluations)), 6) AS divergence_rate,
    vsync.latency_quantile(vsync.sum_histograms(primary_latencies), (0.5)::double precision) AS primary_p50_us,
    vsync.latency_quantile(vsync.sum_histograms(primary_latencies), (0.95)::double precision) AS primary_p95_us,
    vsync.latency_quantile(vsync.sum_histograms(shadow_latencies), (0.5)::double precision) AS shadow_p50_us,
    vsync.latency_quantile(vsync.sum_histograms(shadow_latencies), (0.95)::double precision) AS shadow_p95_us
   FROM vsync.evaluation_hours
  GROUP BY candidate_name, candidate_version, hour;
COMMENT ON VIEW vsync.divergence_summary IS 'A row per candidate and hour, for psql. GetDivergenceSummary also has paths.';
CREATE TABLE vsync.import_chunks (
    import_id uuid NOT NULL,
    number bigint NOT NULL,
    fingerprint bytea NOT NULL,
    answer bytea NOT NULL,
    CONSTRAINT import_chunks_fingerprint CHECK ((octet_length(fingerprint) = 16)),
    CONSTRAINT import_chunks_number CHECK ((number >= 1))
);
CREATE TABLE vsync.imports (
    import_id uuid NOT NULL,
    actor text NOT NULL COLLATE pg_catalog."C",
    on_conflict smallint NOT NULL,
    initial_sync_status smallint NOT NULL,
    last_number bigint DEFAULT 0 NOT NULL,
    inserted bigint DEFAULT 0 NOT NULL,
    skipped bigint DEFAULT 0 NOT NULL,
    replaced bigint DEFAULT 0 NOT NULL,
    rejected bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT imports_counts CHECK (((last_number >= 0) AND (inserted >= 0) AND (skipped >= 0) AND (replaced >= 0) AND (rejected >= 0))),
    CONSTRAINT imports_initial_sync_status CHECK (((initial_sync_status >= 1) AND (initial_sync_status <= 2))),
    CONSTRAINT imports_on_conflict CHECK (((on_conflict >= 1) AND (on_conflict <= 3)))
);
CREATE TABLE vsync.job_runs (
    name text NOT NULL COLLATE pg_catalog."C",
    holder text COLLATE pg_catalog."C",
    lease_until timestamp with time zone,
    last_started timestamp with time zone NOT NULL,
    last_finished timestamp with time zone,
    last_succeeded timestamp with time zone,
    last_error text,
    CONSTRAINT job_runs_last_error CHECK ((char_length(last_error) <= 1000)),
    CONSTRAINT job_runs_lease CHECK (((holder IS NULL) = (lease_until IS NULL))),
    CONSTRAINT job_runs_name CHECK (((char_length(name) >= 1) AND (char_length(name) <= 100)))
)
WITH (fillfactor='50');
COMMENT ON TABLE vsync.job_runs IS 'One row per job. If last_finished is before last_started and holder is NULL, the last run was interrupted.';
CREATE TABLE vsync.partitioned_tables (
    table_name text NOT NULL COLLATE pg_catalog."C",
    period text NOT NULL COLLATE pg_catalog."C",
    retention_setting text COLLATE pg_catalog."C",
    retention_days integer,
    CONSTRAINT partitioned_tables_one_retention CHECK ((num_nonnulls(retention_setting, retention_days) = 1)),
    CONSTRAINT partitioned_tables_period CHECK ((period = ANY (ARRAY['week'::text, 'month'::text]))),
    CONSTRAINT partitioned_tables_retention_days CHECK ((retention_days >= 1)),
    CONSTRAINT partitioned_tables_retention_setting CHECK ((retention_setting ~ '^[A-Z][A-Z0-9_]*$'::text))
);
COMMENT ON TABLE vsync.partitioned_tables IS 'Every partitioned table, the period of its partitions, and its retention.';
COMMENT ON COLUMN vsync.partitioned_tables.retention_setting IS 'The setting that has the retention in days. 0 days: rows are kept forever.';
COMMENT ON COLUMN vsync.partitioned_tables.retention_days IS 'A fixed retention, for a table without a setting.';
ALTER TABLE vsync.payment_deltas ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME vsync.payment_deltas_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE vsync.payment_fold (
    is_only boolean DEFAULT true NOT NULL,
    transaction_id xid8 DEFAULT pg_current_xact_id() NOT NULL,
    horizon xid8 DEFAULT '0'::xid8 NOT NULL,
    CONSTRAINT payment_fold_is_only CHECK (is_only)
)
WITH (fillfactor='10');
CREATE TABLE vsync.payment_keys (
    correlation_id text NOT NULL COLLATE pg_catalog."C",
    payment_id uuid NOT NULL,
    CONSTRAINT payment_keys_correlation_id CHECK (((char_length(correlation_id) >= 1) AND (char_length(correlation_id) <= 255)))
);
COMMENT ON TABLE vsync.payment_keys IS 'The correlation ids of payments, which are unique across all partitions.';
CREATE TABLE vsync.payment_totals (
    payments bigint NOT NULL,
    amount numeric NOT NULL,
    processor text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT payment_totals_amount CHECK ((amount > (0)::numeric)),
    CONSTRAINT payment_totals_payments CHECK ((payments > 0))
)
WITH (fillfactor='50');
COMMENT ON TABLE vsync.payment_totals IS 'Number and sum of all payments of each processor, up to the last fold.';
CREATE TABLE vsync.processor_health (
    reported_at timestamp with time zone NOT NULL,
    revision bigint DEFAULT 1 NOT NULL,
    min_response_time_ms integer NOT NULL,
    healthy boolean NOT NULL,
    processor text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT processor_health_min_response_time_ms CHECK (((min_response_time_ms >= 0) AND (min_response_time_ms <= 3600000))),
    CONSTRAINT processor_health_processor CHECK (((processor ~ '^[a-z0-9_-]+$'::text) AND (octet_length(processor) <= 50))),
    CONSTRAINT processor_health_reported_at CHECK (isfinite(reported_at)),
    CONSTRAINT processor_health_revision CHECK ((revision >= 1))
)
WITH (fillfactor='50');
COMMENT ON COLUMN vsync.processor_health.revision IS 'The number of reports. Redis does not replace a newer report by an older one.';
CREATE TABLE vsync.request_ids (
    request_id uuid NOT NULL,
    week date NOT NULL,
    actor text NOT NULL COLLATE pg_catalog."C",
    method text NOT NULL COLLATE pg_catalog."C",
    fingerprint bytea NOT NULL,
    answer bytea NOT NULL,
    CONSTRAINT request_ids_fingerprint CHECK ((octet_length(fingerprint) = 16)),
    CONSTRAINT request_ids_week CHECK ((EXTRACT(isodow FROM week) = (1)::numeric))
)
PARTITION BY RANGE (week);
COMMENT ON COLUMN vsync.request_ids.answer IS 'The bytes from which the service builds the same answer again.';
CREATE TABLE vsync.schema_migrations (
    set_name text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    checksum text NOT NULL COLLATE pg_catalog."C",
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    applied_by text DEFAULT CURRENT_USER NOT NULL,
    duration_ms bigint NOT NULL
);
CREATE TABLE vsync.schema_migrations_dirty (
    set_name text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    direction text NOT NULL COLLATE pg_catalog."C",
    checksum text NOT NULL COLLATE pg_catalog."C",
    done integer DEFAULT 0 NOT NULL,
    line integer NOT NULL,
    error text,
    begun_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    begun_by text DEFAULT CURRENT_USER NOT NULL,
    invalid_before bigint[] DEFAULT '{}'::bigint[] NOT NULL
);
CREATE TABLE vsync.sync_batch_records (
    batch_id uuid NOT NULL,
    claim_token uuid,
    claimed_id uuid,
    lease_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    claimed_revision bigint,
    outcome smallint,
    cid bytea NOT NULL,
    CONSTRAINT sync_batch_records_cid_length CHECK ((octet_length(cid) = 32)),
    CONSTRAINT sync_batch_records_outcome CHECK (((outcome >= 1) AND (outcome <= 3)))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.02');
COMMENT ON COLUMN vsync.sync_batch_records.outcome IS '1 SYNCED, 2 FAILED, 3 skipped; NULL: open';
CREATE TABLE vsync.sync_batches (
    id uuid DEFAULT vsync.uuid_v7(now()) NOT NULL,
    batch_date date NOT NULL,
    ispb text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    status smallint DEFAULT 1 NOT NULL,
    total_records bigint DEFAULT 0 NOT NULL,
    synced_records bigint DEFAULT 0 NOT NULL,
    failed_records bigint DEFAULT 0 NOT NULL,
    skipped_records bigint DEFAULT 0 NOT NULL,
    intake_cursor uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid NOT NULL,
    created_at timestamp with time zone DEFAULT date_trunc('milliseconds'::text, now()) NOT NULL,
    updated_at timestamp with time zone DEFAULT date_trunc('milliseconds'::text, now()) NOT NULL,
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    error_message text DEFAULT ''::text NOT NULL,
    revision bigint DEFAULT 1 NOT NULL,
    CONSTRAINT sync_batches_completed CHECK ((((status = 4) = (completed_at IS NOT NULL)) AND ((status <> 4) OR (((synced_records + failed_records) + skipped_records) = total_records)))),
    CONSTRAINT sync_batches_counts CHECK (((synced_records >= 0) AND (failed_records >= 0) AND (skipped_records >= 0) AND (((synced_records + failed_records) + skipped_records) <= total_records))),
    CONSTRAINT sync_batches_error_message CHECK ((((status = 5) = (error_message <> ''::text)) AND (char_length(error_message) <= 1000))),
    CONSTRAINT sync_batches_ispb CHECK ((ispb ~ '^([0-9]{8})?$'::text)),
    CONSTRAINT sync_batches_revision CHECK ((revision >= 1)),
    CONSTRAINT sync_batches_started_at CHECK (((status <> ALL (ARRAY[3, 4])) OR (started_at IS NOT NULL))),
    CONSTRAINT sync_batches_status CHECK (((status >= 1) AND (status <= 5)))
);
CREATE TABLE vsync.tenant_key (
    is_only boolean DEFAULT true NOT NULL,
    fingerprint bytea NOT NULL,
    CONSTRAINT tenant_key_fingerprint CHECK ((octet_length(fingerprint) = 32)),
    CONSTRAINT tenant_key_is_only CHECK (is_only)
);
COMMENT ON TABLE vsync.tenant_key IS 'The fingerprint of the key from which the tenants in this database were computed. Another key would not find their rows.';
CREATE VIEW vsync.unfolded_payments AS
 SELECT hour,
    processor,
    payments,
    amount
   FROM vsync.payment_deltas
  WHERE ((transaction_id >= ( SELECT
                CASE
                    WHEN vsync.is_of_this_cluster(payment_fold.xmin, payment_fold.transaction_id) THEN payment_fold.horizon
                    ELSE '0'::xid8
                END AS "case"
           FROM vsync.payment_fold)) AND (transaction_id <= '18446744073709551615'::xid8));
COMMENT ON VIEW vsync.unfolded_payments IS 'The totals since the last fold.';
CREATE TABLE vsync.vsync_verifications (
    id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    ispb text NOT NULL COLLATE pg_catalog."C",
    key_type smallint NOT NULL,
    directory_result smallint NOT NULL,
    submitted_vsync bytea NOT NULL,
    our_vsync bytea NOT NULL,
    our_count bigint NOT NULL,
    directory_vsync bytea,
    directory_verification_id text COLLATE pg_catalog."C",
    last_ok_at timestamp with time zone,
    actor text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT vsync_verifications_actor CHECK (((char_length(actor) >= 1) AND (char_length(actor) <= 200))),
    CONSTRAINT vsync_verifications_created_at_is_the_ids CHECK ((created_at = vsync.uuid_v7_time(id))),
    CONSTRAINT vsync_verifications_directory_result CHECK (((directory_result >= 1) AND (directory_result <= 2))),
    CONSTRAINT vsync_verifications_directory_verification_id CHECK (((char_length(directory_verification_id) >= 1) AND (char_length(directory_verification_id) <= 100))),
    CONSTRAINT vsync_verifications_ispb CHECK ((ispb ~ '^[0-9]{8}$'::text)),
    CONSTRAINT vsync_verifications_key_type CHECK (((key_type >= 1) AND (key_type <= 5))),
    CONSTRAINT vsync_verifications_lengths CHECK (((octet_length(submitted_vsync) = 32) AND (octet_length(our_vsync) = 32) AND (octet_length(directory_vsync) = 32))),
    CONSTRAINT vsync_verifications_our_count CHECK ((our_count >= 0))
);
COMMENT ON COLUMN vsync.vsync_verifications.directory_result IS '1 OK, 2 NOK';
COMMENT ON COLUMN vsync.vsync_verifications.last_ok_at IS 'The time of the last OK for this ispb and key type';
ALTER TABLE ONLY vsync.audit_logs
    ADD CONSTRAINT audit_logs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY vsync.cache_epoch
    ADD CONSTRAINT cache_epoch_pkey PRIMARY KEY (single);
ALTER TABLE ONLY vsync.cid_events
    ADD CONSTRAINT cid_events_pkey PRIMARY KEY (transaction_id, seq, created_at);
ALTER TABLE ONLY vsync.cid_folds
    ADD CONSTRAINT cid_folds_pkey PRIMARY KEY (number);
ALTER TABLE ONLY vsync.cid_totals
    ADD CONSTRAINT cid_totals_pkey PRIMARY KEY (transaction_id, seq);
ALTER TABLE ONLY vsync.cids
    ADD CONSTRAINT cids_cid_key UNIQUE (cid) INCLUDE (ispb, key_type);
ALTER TABLE ONLY vsync.cids
    ADD CONSTRAINT cids_key_value_ispb_key UNIQUE (key_value, ispb);
ALTER TABLE ONLY vsync.cids
    ADD CONSTRAINT cids_pkey PRIMARY KEY (id);
ALTER TABLE ONLY vsync.credit_accounts
    ADD CONSTRAINT credit_accounts_pkey PRIMARY KEY (tenant, account);
ALTER TABLE ONLY vsync.credit_reservations
    ADD CONSTRAINT credit_reservations_pkey PRIMARY KEY (tenant, account, id);
ALTER TABLE ONLY vsync.credit_transactions
    ADD CONSTRAINT credit_transactions_pkey PRIMARY KEY (tenant, account, number);
ALTER TABLE ONLY vsync.credit_transactions
    ADD CONSTRAINT credit_transactions_reference_key UNIQUE (tenant, account, reference);
ALTER TABLE ONLY vsync.evaluations
    ADD CONSTRAINT evaluations_pkey PRIMARY KEY (evaluation_id);
ALTER TABLE ONLY vsync.import_chunks
    ADD CONSTRAINT import_chunks_pkey PRIMARY KEY (import_id, number);
ALTER TABLE ONLY vsync.imports
    ADD CONSTRAINT imports_pkey PRIMARY KEY (import_id);
ALTER TABLE ONLY vsync.iocs
    ADD CONSTRAINT iocs_pkey PRIMARY KEY (tenant, type, value);
ALTER TABLE ONLY vsync.job_runs
    ADD CONSTRAINT job_runs_pkey PRIMARY KEY (name);
ALTER TABLE ONLY vsync.partitioned_tables
    ADD CONSTRAINT partitioned_tables_pkey PRIMARY KEY (table_name);
ALTER TABLE ONLY vsync.payment_deltas
    ADD CONSTRAINT payment_deltas_pkey PRIMARY KEY (transaction_id, seq);
ALTER TABLE ONLY vsync.payment_fold
    ADD CONSTRAINT payment_fold_pkey PRIMARY KEY (is_only);
ALTER TABLE ONLY vsync.payment_hours
    ADD CONSTRAINT payment_hours_pkey PRIMARY KEY (hour, processor);
ALTER TABLE ONLY vsync.payment_keys
    ADD CONSTRAINT payment_keys_payment_id_key UNIQUE (payment_id);
ALTER TABLE ONLY vsync.payment_keys
    ADD CONSTRAINT payment_keys_pkey PRIMARY KEY (correlation_id);
ALTER TABLE ONLY vsync.payment_totals
    ADD CONSTRAINT payment_totals_pkey PRIMARY KEY (processor);
ALTER TABLE ONLY vsync.payments
    ADD CONSTRAINT payments_pkey PRIMARY KEY (id);
ALTER TABLE ONLY vsync.processor_health
    ADD CONSTRAINT processor_health_pkey PRIMARY KEY (processor);
ALTER TABLE ONLY vsync.request_ids
    ADD CONSTRAINT request_ids_pkey PRIMARY KEY (request_id, actor, method, week);
ALTER TABLE ONLY vsync.schema_migrations_dirty
    ADD CONSTRAINT schema_migrations_dirty_pkey PRIMARY KEY (set_name);
ALTER TABLE ONLY vsync.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (set_name, version);
ALTER TABLE ONLY vsync.sync_batch_records
    ADD CONSTRAINT sync_batch_records_pkey PRIMARY KEY (batch_id, cid);
ALTER TABLE ONLY vsync.sync_batches
    ADD CONSTRAINT sync_batches_batch_date_ispb_key UNIQUE (batch_date, ispb);
ALTER TABLE ONLY vsync.sync_batches
    ADD CONSTRAINT sync_batches_pkey PRIMARY KEY (id);
ALTER TABLE ONLY vsync.tenant_key
    ADD CONSTRAINT tenant_key_pkey PRIMARY KEY (is_only);
ALTER TABLE ONLY vsync.vsync_verifications
    ADD CONSTRAINT vsync_verifications_pkey PRIMARY KEY (id);
CREATE INDEX audit_logs_action_id_idx ON ONLY vsync.audit_logs USING btree (action, id);
CREATE INDEX audit_logs_cid_id_idx ON ONLY vsync.audit_logs USING btree (cid, id) WHERE (cid IS NOT NULL);
CREATE INDEX audit_logs_correlation_id_id_idx ON ONLY vsync.audit_logs USING btree (correlation_id, id);
CREATE INDEX audit_logs_ispb_id_idx ON ONLY vsync.audit_logs USING btree (ispb, id) WHERE (ispb IS NOT NULL);
CREATE INDEX audit_logs_key_value_id_idx ON ONLY vsync.audit_logs USING btree (key_value, id) WHERE (key_value IS NOT NULL);
CREATE INDEX audit_logs_on_behalf_of_id_idx ON ONLY vsync.audit_logs USING btree (on_behalf_of, id) WHERE (on_behalf_of IS NOT NULL);
CREATE INDEX audit_logs_recorded_by_id_idx ON ONLY vsync.audit_logs USING btree (recorded_by, id);
CREATE INDEX audit_logs_resource_id_idx ON ONLY vsync.audit_logs USING btree (resource, id) WHERE (resource IS NOT NULL);
CREATE INDEX cid_changes_transaction_id_idx ON vsync.cid_changes USING btree (transaction_id);
CREATE INDEX cid_events_cid_idx ON ONLY vsync.cid_events USING hash (cid);
CREATE INDEX cid_events_created_at_idx ON ONLY vsync.cid_events USING brin (created_at) WITH (pages_per_range='16', autosummarize='on');
CREATE INDEX cid_totals_folded_idx ON vsync.cid_totals USING btree (ispb, key_type, transaction_id) WHERE folded;
CREATE INDEX cids_ispb_key_type_id_idx ON vsync.cids USING btree (ispb, key_type, id);
CREATE INDEX cids_sync_status_id_idx ON vsync.cids USING btree (sync_status, id) WHERE (sync_status <> 2);
CREATE INDEX cids_tax_id_id_idx ON vsync.cids USING btree (tax_id, id);
CREATE INDEX credit_reservations_open_idx ON vsync.credit_reservations USING btree (tenant, expires_at) WHERE (state = 1);
CREATE INDEX evaluation_rollups_deltas_idx ON ONLY vsync.evaluation_rollups USING btree (candidate_name, candidate_version, hour) WHERE (NOT folded);
CREATE UNIQUE INDEX evaluation_rollups_folded_idx ON ONLY vsync.evaluation_rollups USING btree (candidate_name, candidate_version, hour) WHERE folded;
CREATE INDEX evaluations_candidate_idx ON ONLY vsync.evaluations USING btree (candidate_name, candidate_version, evaluation_id);
CREATE INDEX evaluations_diverged_idx ON ONLY vsync.evaluations USING btree (candidate_name, candidate_version, evaluation_id) WHERE diverged;
CREATE INDEX evaluations_results_idx ON ONLY vsync.evaluations USING gin (primary_result jsonb_path_ops, shadow_result jsonb_path_ops);
CREATE INDEX imports_updated_at_idx ON vsync.imports USING btree (updated_at);
CREATE INDEX iocs_expires_at_idx ON vsync.iocs USING btree (tenant, expires_at);
CREATE INDEX iocs_source_idx ON vsync.iocs USING btree (tenant, source, type, value);
CREATE INDEX payments_processed_at_id_idx ON ONLY vsync.payments USING btree (processed_at, id) INCLUDE (processor, amount);
CREATE INDEX sync_batch_records_claim_token_idx ON vsync.sync_batch_records USING btree (claim_token) WHERE (claim_token IS NOT NULL);
CREATE INDEX sync_batch_records_failed_idx ON vsync.sync_batch_records USING btree (batch_id) WHERE (outcome = 2);
CREATE INDEX sync_batch_records_open_idx ON vsync.sync_batch_records USING btree (batch_id, lease_until) WHERE (outcome IS NULL);
CREATE INDEX sync_batches_status_idx ON vsync.sync_batches USING btree (status, batch_date, ispb);
CREATE INDEX vsync_verifications_ispb_key_type_id_idx ON vsync.vsync_verifications USING btree (ispb, key_type, id);
CREATE INDEX vsync_verifications_nok_idx ON vsync.vsync_verifications USING btree (ispb, key_type, id) WHERE (directory_result = 2);
CREATE TRIGGER audit_logs_append_only BEFORE DELETE OR UPDATE ON vsync.audit_logs FOR EACH ROW EXECUTE FUNCTION vsync.refuse_change();
CREATE TRIGGER audit_logs_time BEFORE INSERT ON vsync.audit_logs FOR EACH ROW WHEN (((new.created_at < (clock_timestamp() - '00:05:00'::interval)) OR (new.created_at > (clock_timestamp() + '00:05:00'::interval)))) EXECUTE FUNCTION vsync.refuse_time();
CREATE TRIGGER audit_logs_truncated BEFORE TRUNCATE ON vsync.audit_logs FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_truncate();
CREATE TRIGGER cid_changed AFTER UPDATE ON vsync.cids FOR EACH ROW WHEN (((old.cid <> new.cid) OR (old.ispb <> new.ispb) OR (old.key_type <> new.key_type))) EXECUTE FUNCTION vsync.cid_changed();
CREATE TRIGGER cid_events_append_only BEFORE DELETE OR UPDATE ON vsync.cid_events FOR EACH ROW EXECUTE FUNCTION vsync.refuse_change();
CREATE TRIGGER cid_events_truncated BEFORE TRUNCATE ON vsync.cid_events FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_truncate();
CREATE TRIGGER cid_removed AFTER DELETE ON vsync.cids FOR EACH ROW EXECUTE FUNCTION vsync.cid_removed();
CREATE TRIGGER cids_deleted AFTER DELETE ON vsync.cids REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION vsync.cids_deleted();
CREATE TRIGGER cids_inserted AFTER INSERT ON vsync.cids REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION vsync.cids_inserted();
CREATE TRIGGER cids_note_added AFTER INSERT ON vsync.cids REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION vsync.note_added();
CREATE TRIGGER cids_note_removed AFTER DELETE ON vsync.cids REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION vsync.note_removed();
CREATE TRIGGER cids_note_updated AFTER UPDATE ON vsync.cids REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION vsync.note_updated();
CREATE TRIGGER cids_truncated BEFORE TRUNCATE ON vsync.cids FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_truncate();
CREATE TRIGGER cids_updated AFTER UPDATE ON vsync.cids REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION vsync.cids_updated();
CREATE TRIGGER credit_accounts_kept BEFORE DELETE ON vsync.credit_accounts FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_change();
CREATE TRIGGER credit_accounts_truncated BEFORE TRUNCATE ON vsync.credit_accounts FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_truncate();
CREATE TRIGGER credit_reservations_kept BEFORE DELETE ON vsync.credit_reservations FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_change();
CREATE TRIGGER credit_reservations_truncated BEFORE TRUNCATE ON vsync.credit_reservations FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_truncate();
CREATE TRIGGER credit_transactions_append_only BEFORE DELETE OR UPDATE ON vsync.credit_transactions FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_change();
CREATE TRIGGER credit_transactions_truncated BEFORE TRUNCATE ON vsync.credit_transactions FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_truncate();
CREATE TRIGGER evaluation_rollups_truncated BEFORE TRUNCATE ON vsync.evaluation_rollups FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_truncate();
CREATE TRIGGER evaluations_append_only BEFORE DELETE OR UPDATE ON vsync.evaluations FOR EACH ROW EXECUTE FUNCTION vsync.refuse_change();
CREATE TRIGGER evaluations_inserted AFTER INSERT ON vsync.evaluations REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION vsync.evaluations_inserted();
CREATE TRIGGER evaluations_truncated BEFORE TRUNCATE ON vsync.evaluations FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_truncate();
CREATE TRIGGER payment_keys_kept BEFORE DELETE ON vsync.payment_keys FOR EACH ROW EXECUTE FUNCTION vsync.refuse_key_removal();
CREATE TRIGGER payment_keys_truncated BEFORE TRUNCATE ON vsync.payment_keys FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_truncate();
CREATE TRIGGER payment_keys_unchanged BEFORE UPDATE ON vsync.payment_keys FOR EACH ROW EXECUTE FUNCTION vsync.refuse_change();
CREATE TRIGGER payments_append_only BEFORE DELETE OR UPDATE ON vsync.payments FOR EACH ROW EXECUTE FUNCTION vsync.refuse_change();
CREATE TRIGGER payments_inserted AFTER INSERT ON vsync.payments REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION vsync.payments_inserted();
CREATE TRIGGER payments_truncated BEFORE TRUNCATE ON vsync.payments FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_truncate();
CREATE TRIGGER vsync_verifications_append_only BEFORE DELETE OR UPDATE ON vsync.vsync_verifications FOR EACH ROW EXECUTE FUNCTION vsync.refuse_change();
CREATE TRIGGER vsync_verifications_truncated BEFORE TRUNCATE ON vsync.vsync_verifications FOR EACH STATEMENT EXECUTE FUNCTION vsync.refuse_truncate();
ALTER TABLE ONLY vsync.import_chunks
    ADD CONSTRAINT import_chunks_import_id_fkey FOREIGN KEY (import_id) REFERENCES vsync.imports(import_id) ON DELETE CASCADE;
ALTER TABLE ONLY vsync.sync_batch_records
    ADD CONSTRAINT sync_batch_records_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES vsync.sync_batches(id);
ALTER TABLE vsync.credit_accounts ENABLE ROW LEVEL SECURITY;
CREATE POLICY credit_accounts_tenant ON vsync.credit_accounts USING ((tenant = decode(current_setting('vsync.tenant'::text, true), 'hex'::text)));
ALTER TABLE vsync.credit_reservations ENABLE ROW LEVEL SECURITY;
CREATE POLICY credit_reservations_tenant ON vsync.credit_reservations USING ((tenant = decode(current_setting('vsync.tenant'::text, true), 'hex'::text)));
ALTER TABLE vsync.credit_transactions ENABLE ROW LEVEL SECURITY;
CREATE POLICY credit_transactions_tenant ON vsync.credit_transactions USING ((tenant = decode(current_setting('vsync.tenant'::text, true), 'hex'::text)));
ALTER TABLE vsync.iocs ENABLE ROW LEVEL SECURITY;
CREATE POLICY iocs_tenant ON vsync.iocs USING ((tenant = decode(current_setting('vsync.tenant'::text, true), 'hex'::text)));
GRANT USAGE ON SCHEMA vsync TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.add_histograms(a bigint[], b bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.add_histograms(a bigint[], b bigint[]) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.add_latency(histogram bigint[], latency_us bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.audit_change_by_hand(operation text, ispb text, changed bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.begin_cache_epoch() FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.begin_cache_epoch() TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.cache_key(key_value text, ispb text) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.cid_bits(cid bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.cid_bits(cid bytea) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.cid_changed() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.cid_removed() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.cids_deleted() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.cids_inserted() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.cids_updated() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.clean_expired_iocs(max_rows integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.credit_balances_step(balances numeric[], available numeric, reserved numeric, number bigint, available_change numeric, reserved_change numeric) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.credit_balances_step(balances numeric[], available numeric, reserved numeric, number bigint, available_change numeric, reserved_change numeric) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.delete_expired_iocs(max_rows integer) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.delete_expired_iocs(max_rows integer) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.drop_cid_changes() FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.drop_cid_changes() TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.drop_payment_keys(step integer) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.drop_payment_keys(step integer) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.evaluations_containing(primary_part jsonb, shadow_part jsonb, from_id uuid, below_id uuid, max_rows integer) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.evaluations_containing(primary_part jsonb, shadow_part jsonb, from_id uuid, below_id uuid, max_rows integer) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.evaluations_inserted() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.evaluations_of_candidate(wanted_name text, wanted_version text, wanted_diverged boolean, primary_part jsonb, shadow_part jsonb, from_id uuid, below_id uuid, max_scanned integer, max_rows integer) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.evaluations_of_candidate(wanted_name text, wanted_version text, wanted_diverged boolean, primary_part jsonb, shadow_part jsonb, from_id uuid, below_id uuid, max_scanned integer, max_rows integer) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.fold_cid_totals() FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.fold_cid_totals() TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.fold_evaluation_rollups() FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.fold_evaluation_rollups() TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.fold_payment_totals() FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.fold_payment_totals() TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.grant_core_to_service(service name) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.grant_credits_to_service(service name) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.grant_iocs_to_service(service name) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.grant_payments_health_to_service(service name) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.grant_payments_to_service(service name) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.grant_shadow_to_service(service name) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.grant_to_service(service name, sets text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.grant_vsync_cache_to_service(service name) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.grant_vsync_cids_to_service(service name) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.grant_vsync_sync_batches_to_service(service name) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.grant_vsync_verifications_to_service(service name) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.is_of_this_cluster(row_xmin xid, transaction_id xid8) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.is_of_this_cluster(row_xmin xid, transaction_id xid8) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.latency_bounds() FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.latency_bounds() TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.latency_quantile(histogram bigint[], quantile double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.latency_quantile(histogram bigint[], quantile double precision) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.make_partition(parent text, suffix text, lower_bound text, upper_bound text) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.make_partitions() FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.make_partitions() TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.note_added() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.note_removed() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.note_updated() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.partitions() FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.partitions() TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.payments_inserted() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.rebuild_cid_totals() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.refuse_change() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.refuse_key_removal() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.refuse_time() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.refuse_truncate() FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.register_partitioned_table(table_name text, period text, retention_setting text, retention_days integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.restrict_to_tenant(table_name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.tenants_with_expired_credits() FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.tenants_with_expired_credits() TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.unregister_partitioned_table(table_name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.uuid_v7(at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.uuid_v7(at timestamp with time zone) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.uuid_v7_floor(at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.uuid_v7_floor(at timestamp with time zone) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.uuid_v7_time(id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.uuid_v7_time(id uuid) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.credit_balances(numeric, numeric, bigint, numeric, numeric) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.credit_balances(numeric, numeric, bigint, numeric, numeric) TO vsyncd_service;
REVOKE ALL ON FUNCTION vsync.latency_histogram(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION vsync.sum_histograms(bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION vsync.sum_histograms(bigint[]) TO vsyncd_service;
GRANT SELECT ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT INSERT(id) ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT INSERT(created_at) ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT INSERT(correlation_id) ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT INSERT(recorded_by) ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT INSERT(on_behalf_of) ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT INSERT(action) ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT INSERT(resource) ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT INSERT(ispb) ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT INSERT(key_value) ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT INSERT(cid) ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT INSERT(payload) ON TABLE vsync.audit_logs TO vsyncd_service;
GRANT SELECT ON TABLE vsync.cache_epoch TO vsyncd_service;
GRANT SELECT ON TABLE vsync.cid_changes TO vsyncd_service;
GRANT SELECT ON TABLE vsync.cid_folds TO vsyncd_service;
GRANT SELECT ON TABLE vsync.cid_totals TO vsyncd_service;
GRANT SELECT ON TABLE vsync.last_fold TO vsyncd_service;
GRANT SELECT ON TABLE vsync.cid_deltas TO vsyncd_service;
GRANT SELECT ON TABLE vsync.cid_events TO vsyncd_service;
GRANT SELECT ON TABLE vsync.cid_sums TO vsyncd_service;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE vsync.cids TO vsyncd_service;
GRANT SELECT ON TABLE vsync.cids_readable TO vsyncd_service;
GRANT SELECT,INSERT ON TABLE vsync.credit_accounts TO vsyncd_service;
GRANT UPDATE(closed_at) ON TABLE vsync.credit_accounts TO vsyncd_service;
GRANT UPDATE(transactions) ON TABLE vsync.credit_accounts TO vsyncd_service;
GRANT UPDATE(available) ON TABLE vsync.credit_accounts TO vsyncd_service;
GRANT UPDATE(reserved) ON TABLE vsync.credit_accounts TO vsyncd_service;
GRANT SELECT,INSERT ON TABLE vsync.credit_reservations TO vsyncd_service;
GRANT UPDATE(closed_at) ON TABLE vsync.credit_reservations TO vsyncd_service;
GRANT UPDATE(state) ON TABLE vsync.credit_reservations TO vsyncd_service;
GRANT SELECT,INSERT ON TABLE vsync.credit_transactions TO vsyncd_service;
GRANT SELECT,INSERT ON TABLE vsync.evaluations TO vsyncd_service;
GRANT SELECT,INSERT,DELETE ON TABLE vsync.iocs TO vsyncd_service;
GRANT UPDATE(audit_id) ON TABLE vsync.iocs TO vsyncd_service;
GRANT UPDATE(created_at) ON TABLE vsync.iocs TO vsyncd_service;
GRANT UPDATE(expires_at) ON TABLE vsync.iocs TO vsyncd_service;
GRANT UPDATE(revision) ON TABLE vsync.iocs TO vsyncd_service;
GRANT UPDATE(confidence) ON TABLE vsync.iocs TO vsyncd_service;
GRANT UPDATE(source) ON TABLE vsync.iocs TO vsyncd_service;
GRANT UPDATE(tags) ON TABLE vsync.iocs TO vsyncd_service;
GRANT SELECT ON TABLE vsync.payment_deltas TO vsyncd_service;
GRANT SELECT ON TABLE vsync.payment_hours TO vsyncd_service;
GRANT SELECT,INSERT ON TABLE vsync.payments TO vsyncd_service;
GRANT SELECT ON TABLE vsync.evaluation_hours TO vsyncd_service;
GRANT SELECT ON TABLE vsync.divergence_summary TO vsyncd_service;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE vsync.import_chunks TO vsyncd_service;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE vsync.imports TO vsyncd_service;
GRANT SELECT,INSERT,UPDATE ON TABLE vsync.job_runs TO vsyncd_service;
GRANT SELECT ON TABLE vsync.partitioned_tables TO vsyncd_service;
GRANT SELECT ON TABLE vsync.payment_fold TO vsyncd_service;
GRANT SELECT,INSERT ON TABLE vsync.payment_keys TO vsyncd_service;
GRANT SELECT ON TABLE vsync.payment_totals TO vsyncd_service;
GRANT SELECT,INSERT,UPDATE ON TABLE vsync.processor_health TO vsyncd_service;
GRANT SELECT,INSERT ON TABLE vsync.request_ids TO vsyncd_service;
GRANT SELECT ON TABLE vsync.schema_migrations TO vsyncd_service;
GRANT SELECT ON TABLE vsync.schema_migrations_dirty TO vsyncd_service;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE vsync.sync_batch_records TO vsyncd_service;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE vsync.sync_batches TO vsyncd_service;
GRANT SELECT,INSERT ON TABLE vsync.tenant_key TO vsyncd_service;
GRANT SELECT ON TABLE vsync.unfolded_payments TO vsyncd_service;
GRANT SELECT,INSERT ON TABLE vsync.vsync_verifications TO vsyncd_service;
