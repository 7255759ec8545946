-- What the cache of records in Redis stands on (docs/cache.md): which cids changed, in the same transaction as the change,
-- whoever made it. Both tables are UNLOGGED: they cost no WAL, and a crash or a promotion empties them together, which
-- tells every vsyncd that what is cached can no longer be trusted.

-- ---------------------------------------------------------------------------------------------------------------
-- cache_epoch: one row, as long as nothing was lost. `secret` keys the names of what is cached.
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

COMMENT ON COLUMN "vsync".cache_epoch.dropped IS 'Changes of transactions up to this one may be gone from cid_changes';
COMMENT ON COLUMN "vsync".cache_epoch.born IS
    'What was running then may have been prepared before a crash, and its changes are not in cid_changes';

CREATE FUNCTION "vsync".begin_cache_epoch() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO "vsync".cache_epoch (secret)
    VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))
    ON CONFLICT DO NOTHING;
$$;

COMMENT ON FUNCTION "vsync".begin_cache_epoch IS 'Makes the epoch''s row where there is none.';

-- ---------------------------------------------------------------------------------------------------------------
-- cid_changes: one row a statement. cids and ids are their bytes, keys SHA-256 of key_value, a space and ispb, one behind
-- the other. NULL: too many to name. `added`: the rows are new, so that only what was cached as missing is concerned.
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

-- The cache reads what a snapshot did not see yet.
CREATE INDEX cid_changes_transaction_id_idx ON "vsync".cid_changes (transaction_id);

CREATE FUNCTION "vsync".cache_key(key_value text, ispb text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN sha256(convert_to(key_value || ' ' || ispb, 'UTF8'));

-- Creations in great number come without names: all that was cached as missing is forgotten then.
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

-- Below the oldest transaction that is still running only, so that nothing of an older one can appear later.
CREATE FUNCTION "vsync".drop_cid_changes() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last  xid8;
    gone  bigint;
BEGIN
    SELECT max(transaction_id) INTO last FROM "vsync".cid_changes
    WHERE created_at < now() - interval '10 minutes'
      AND transaction_id < pg_snapshot_xmin(pg_current_snapshot());
    IF last IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE "vsync".cache_epoch SET dropped = greatest(dropped, last);
    DELETE FROM "vsync".cid_changes WHERE transaction_id <= last;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;

COMMENT ON FUNCTION "vsync".drop_cid_changes IS 'Drops the changes that every cache has long taken in; how many.';

REVOKE ALL ON FUNCTION "vsync".note_added(), "vsync".note_removed(), "vsync".note_updated() FROM PUBLIC;
