-- Back to counts alone. The verifications go; the events stay.
LOCK TABLE "vsync".cids IN EXCLUSIVE MODE;

DROP TABLE "vsync".vsync_verifications;
DROP INDEX "vsync".cid_events_created_at_idx;
ALTER TABLE "vsync".cid_events DROP COLUMN feed, DROP COLUMN horizon;

CREATE OR REPLACE FUNCTION "vsync".cids_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    audit text := nullif(current_setting('vsync.audit_id', true), '');
BEGIN
    INSERT INTO "vsync".cid_events (ispb, key_type, change, cid, audit_id)
    SELECT ispb, key_type, 1, cid, CASE audit WHEN 'record' THEN id ELSE audit::uuid END FROM new_rows;
    INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records)
    SELECT ispb, key_type, sync_status, count(*) FROM new_rows GROUP BY ispb, key_type, sync_status;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION "vsync".cids_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records)
    SELECT ispb, key_type, sync_status, -count(*) FROM old_rows GROUP BY ispb, key_type, sync_status;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION "vsync".cids_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records)
    SELECT ispb, key_type, sync_status, sum(change)
    FROM (SELECT ispb, key_type, sync_status, -1 AS change FROM old_rows
          UNION ALL
          SELECT ispb, key_type, sync_status, 1 FROM new_rows) AS changes
    GROUP BY ispb, key_type, sync_status HAVING sum(change) <> 0;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION "vsync".fold_cid_totals() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    folded bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('vsyncd fold_cid_totals "vsync"', 0)) THEN
        RETURN 0;
    END IF;
    WITH gone AS (
        DELETE FROM "vsync".cid_totals RETURNING ispb, key_type, sync_status, records
    ), kept AS (
        INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records)
        SELECT ispb, key_type, sync_status, sum(records) FROM gone
        GROUP BY ispb, key_type, sync_status HAVING sum(records) <> 0
    )
    SELECT count(*) INTO folded FROM gone;
    RETURN folded;
END
$$;

COMMENT ON FUNCTION "vsync".fold_cid_totals IS
    'Sums cid_totals up to one row a group; how many rows there were. 0 when another session is at it.';

DROP FUNCTION "vsync".grant_reconciliation_to_service(name), "vsync".rebuild_cid_totals();
DROP VIEW "vsync".cid_sums, "vsync".cid_deltas, "vsync".last_fold;
DROP TABLE "vsync".cid_folds;
ALTER TABLE "vsync".cid_totals DROP COLUMN transaction_id, DROP COLUMN folded, DROP COLUMN cid_xor, DROP COLUMN seq;
CREATE INDEX cid_totals_ispb_idx ON "vsync".cid_totals (ispb);
DROP FUNCTION "vsync".is_of_this_cluster(xid, xid8), "vsync".cid_bits(bytea);

CREATE UNIQUE INDEX IF NOT EXISTS cids_cid_plain_key ON "vsync".cids (cid);
ALTER TABLE "vsync".cids
    DROP CONSTRAINT cids_cid_key,
    ADD CONSTRAINT cids_cid_key UNIQUE USING INDEX cids_cid_plain_key;
