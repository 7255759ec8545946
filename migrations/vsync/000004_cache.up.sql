-- The changes of cids for the cache in Redis (docs/cache.md), recorded in the transaction that makes them, whoever makes
-- it. Both tables are UNLOGGED: they write no WAL, and a crash or a promotion empties both, which tells every vsyncd that
-- cached records can no longer be trusted.

-- ---------------------------------------------------------------------------------------------------------------
-- cache_epoch: one row, until a crash or a promotion. `secret` keys the names of the cached records.
-- ---------------------------------------------------------------------------------------------------------------

CREATE UNLOGGED TABLE "vsync".cache_epoch (
    single  boolean     NOT NULL DEFAULT true,
    secret  bytea       NOT NULL,
    dropped xid8        NOT NULL DEFAULT '0',
    born    pg_snapshot NOT NULL DEFAULT pg_current_snapshot(),
    CONSTRAINT cache_epoch_pkey PRIMARY KEY (single),
    CONSTRAINT cache_epoch_one_row CHECK (single),
    CONSTRAINT cache_epoch_secret CHECK (octet_length(secret) = 32)
);

COMMENT ON COLUMN "vsync".cache_epoch.dropped IS 'Changes of transactions up to this one may be missing in cid_changes';
COMMENT ON COLUMN "vsync".cache_epoch.born IS
    'Transactions running then may have been prepared before a crash, and their changes are not in cid_changes';

CREATE FUNCTION "vsync".begin_cache_epoch() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO "vsync".cache_epoch (secret)
    VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))
    ON CONFLICT DO NOTHING;
$$;

COMMENT ON FUNCTION "vsync".begin_cache_epoch IS 'Inserts the row if it does not exist.';

-- ---------------------------------------------------------------------------------------------------------------
-- cid_changes: one row per statement. cids and ids are concatenated bytes, keys are concatenated SHA-256 hashes of
-- key_value, a space and ispb. NULL: too many to list. `added`: the rows are new, so only cached misses are affected.
-- ---------------------------------------------------------------------------------------------------------------

CREATE UNLOGGED TABLE "vsync".cid_changes (
    transaction_id xid8        NOT NULL DEFAULT pg_current_xact_id(),
    created_at     timestamptz NOT NULL DEFAULT now(),
    added          boolean     NOT NULL,
    cids           bytea,
    keys           bytea,
    ids            bytea
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_threshold = 2000, autovacuum_vacuum_insert_scale_factor = 0);

-- Hashes and random bytes do not compress.
ALTER TABLE "vsync".cid_changes ALTER cids SET STORAGE EXTERNAL, ALTER keys SET STORAGE EXTERNAL,
    ALTER ids SET STORAGE EXTERNAL;

-- The cache reads the changes that an earlier snapshot did not see.
CREATE INDEX cid_changes_transaction_id_idx ON "vsync".cid_changes (transaction_id);

CREATE FUNCTION "vsync".cache_key(key_value text, ispb text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN sha256(convert_to(key_value || ' ' || ispb, 'UTF8'));

-- A statement that creates many records lists none: the cache then forgets every cached miss.
CREATE FUNCTION "vsync".note_added() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

CREATE FUNCTION "vsync".note_removed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

CREATE FUNCTION "vsync".note_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

CREATE TRIGGER cids_note_added AFTER INSERT ON "vsync".cids
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION "vsync".note_added();
CREATE TRIGGER cids_note_removed AFTER DELETE ON "vsync".cids
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION "vsync".note_removed();
CREATE TRIGGER cids_note_updated AFTER UPDATE ON "vsync".cids
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION "vsync".note_updated();

-- Only below the oldest running transaction, so that no change of an older transaction can appear later.
CREATE FUNCTION "vsync".drop_cid_changes() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

COMMENT ON FUNCTION "vsync".drop_cid_changes IS
    'Deletes the changes that every cache has read. Returns how many it deleted.';

CREATE FUNCTION "vsync".grant_vsync_cache_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT ON "vsync".cid_changes, "vsync".cache_epoch TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".begin_cache_epoch(), "vsync".drop_cid_changes() TO %I', service);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "vsync" FROM PUBLIC;
