-- VSyncs, always current: the XOR of the CIDs stands beside their counts in cid_totals, kept by the same triggers.
--
-- Writers of cids wait from the first statement to the commit, readers do not: what is there is counted in, and what
-- comes meanwhile must not be missed. That is one scan of cids, about a second a million records. An instance of the
-- version before goes on as it was: it adds up the rows of cid_totals, and so it can still do.
--
-- The lock is the one that keeps out SELECT FOR UPDATE too: whoever held a row would wait for us, and we for him.
LOCK TABLE "vsync".cids IN EXCLUSIVE MODE;

-- DiffCidSet and RecomputeVsync read the CIDs of an ispb and key type in their order, and from the index alone. On a
-- large table make it ahead, without making anyone wait; then nothing is left to do here:
--   CREATE UNIQUE INDEX CONCURRENTLY cids_cid_covering_key ON "vsync".cids (cid) INCLUDE (ispb, key_type);
CREATE UNIQUE INDEX IF NOT EXISTS cids_cid_covering_key ON "vsync".cids (cid) INCLUDE (ispb, key_type);

CREATE FUNCTION "vsync".cid_bits(cid bytea) RETURNS bit(256)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ('x' || encode(cid, 'hex'))::bit(256);

COMMENT ON FUNCTION "vsync".cid_bits IS 'A CID as bits, which bit_xor takes; bit_send(...) without its first 4 bytes is the way back';

-- ---------------------------------------------------------------------------------------------------------------
-- cid_totals. A row is a delta, added by the trigger of one statement, or, folded, the sum of all deltas of its group
-- up to a fold. All rows that a snapshot sees, added up, are the truth of that snapshot: a fold deletes what it sums up
-- in the same transaction. Updates of one sum would make its writers wait for each other.
-- ---------------------------------------------------------------------------------------------------------------

ALTER TABLE "vsync".cid_totals
    ADD COLUMN transaction_id xid8    NOT NULL DEFAULT pg_current_xact_id(),
    ADD COLUMN folded         boolean NOT NULL DEFAULT false,
    ADD COLUMN cid_xor        bit(256) NOT NULL DEFAULT repeat('0', 256)::bit(256),
    ADD COLUMN seq            bigint GENERATED ALWAYS AS IDENTITY;

-- Logical replication finds the rows that a fold deletes by it.
ALTER TABLE "vsync".cid_totals ADD CONSTRAINT cid_totals_pkey PRIMARY KEY (transaction_id, seq);

-- The sums of a group. The last fold's rows have the highest transaction_id, and are found first, whatever lies behind
-- them that an old snapshot keeps from being cleaned away.
CREATE INDEX cid_totals_folded_idx ON "vsync".cid_totals (ispb, key_type, transaction_id) WHERE folded;
-- The deltas since the last fold go by the primary key.
DROP INDEX "vsync".cid_totals_ispb_idx;

-- What there is already. The rows that were counted before go: these are the same counts, with their XOR.
DELETE FROM "vsync".cid_totals;
INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records, cid_xor, folded)
SELECT ispb, key_type, sync_status, count(*), bit_xor("vsync".cid_bits(cid)), true
FROM "vsync".cids GROUP BY ispb, key_type, sync_status;

-- ---------------------------------------------------------------------------------------------------------------
-- cid_folds: one row, the last fold with its snapshot. A delta that this snapshot saw was summed up and deleted, so that
-- a reader begins behind it, and never meets the dead rows of the folds before, which an old snapshot may keep around
-- for hours. Inserted and deleted rather than updated: the newest is then found first in the index.
--
-- xid8s mean nothing in another cluster. A row that pg_restore or logical replication brought here is told by its xmin,
-- which is not the transaction_id in it: until the next fold readers then take every delta that they see, and that fold
-- begins a new feed of events.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".cid_folds (
    number         bigint      GENERATED ALWAYS AS IDENTITY,
    transaction_id xid8        NOT NULL DEFAULT pg_current_xact_id(),
    snapshot       pg_snapshot NOT NULL,
    feed           integer     NOT NULL,
    feed_id        uuid        NOT NULL DEFAULT gen_random_uuid(),
    feed_began     timestamptz NOT NULL DEFAULT '-infinity',
    within         xid8,
    CONSTRAINT cid_folds_pkey PRIMARY KEY (number)
);

COMMENT ON COLUMN "vsync".cid_folds.feed IS 'The value of cid_events.feed for what happens now; another one after a restore';
COMMENT ON COLUMN "vsync".cid_folds.within IS
    'The transaction of a fold that had changed something before: its snapshot does not name it, and it may change more';

INSERT INTO "vsync".cid_folds (snapshot, feed) SELECT pg_current_snapshot(), 1;

CREATE FUNCTION "vsync".is_of_this_cluster(row_xmin xid, transaction_id xid8) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN row_xmin::text::bigint = (transaction_id::text::numeric % 4294967296)::bigint;

-- The last fold, as readers use it: deltas with transaction_id >= first or in late are to be added to the sums.
CREATE VIEW "vsync".last_fold AS
SELECT feed, feed_id, feed_began, is_ours,
       CASE WHEN is_ours THEN pg_snapshot_xmax(snapshot) ELSE '0'::xid8 END AS first,
       CASE WHEN is_ours THEN ARRAY(SELECT pg_snapshot_xip(snapshot)) || within ELSE '{}' END AS late
FROM (SELECT *, "vsync".is_of_this_cluster(xmin, transaction_id) AS is_ours
      FROM "vsync".cid_folds ORDER BY number DESC LIMIT 1) AS fold;

-- The upper bound bounds nothing: from a lower one alone the planner concludes that a third of all rows lies behind it,
-- and would read the whole table, with everything that is dead in it.
CREATE VIEW "vsync".cid_deltas AS
SELECT ispb, key_type, sync_status, records, cid_xor
FROM "vsync".cid_totals WHERE NOT folded AND transaction_id
    BETWEEN (SELECT first FROM "vsync".last_fold) AND '18446744073709551615'::xid8
UNION ALL
SELECT ispb, key_type, sync_status, records, cid_xor
FROM "vsync".cid_totals WHERE NOT folded AND transaction_id = ANY ((SELECT late FROM "vsync".last_fold)::xid8[]);

COMMENT ON VIEW "vsync".cid_deltas IS 'What has happened since the last fold';

CREATE OR REPLACE FUNCTION "vsync".fold_cid_totals() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
    -- One statement, and so one snapshot: of what is summed up, and the one that is noted. Where the sums were brought
    -- here all of them are made anew: their transaction_ids will be used here for others.
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
    -- A subtransaction's rows have its own number for their xmin, and would pass for another cluster's.
    IF NOT (SELECT is_ours FROM "vsync".last_fold) THEN
        RAISE EXCEPTION 'fold_cid_totals is not for subtransactions' USING ERRCODE = 'invalid_transaction_state',
            HINT = 'Call it outside of savepoints and of blocks with EXCEPTION.';
    END IF;
    RETURN folded;
END
$$;

COMMENT ON FUNCTION "vsync".fold_cid_totals IS
    'Sums up the deltas of cid_totals; how many there were. 0 when another session is at it.';

-- ---------------------------------------------------------------------------------------------------------------
-- What keeps it: the triggers' functions, now with the XOR.
-- ---------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION "vsync".cids_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    audit text := nullif(current_setting('vsync.audit_id', true), '');
BEGIN
    INSERT INTO "vsync".cid_events (ispb, key_type, change, cid, audit_id)
    SELECT ispb, key_type, 1, cid, CASE audit WHEN 'record' THEN id ELSE audit::uuid END FROM new_rows;
    INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records, cid_xor)
    SELECT ispb, key_type, sync_status, count(*), bit_xor("vsync".cid_bits(cid))
    FROM new_rows GROUP BY ispb, key_type, sync_status;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION "vsync".cids_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records, cid_xor)
    SELECT ispb, key_type, sync_status, -count(*), bit_xor("vsync".cid_bits(cid))
    FROM old_rows GROUP BY ispb, key_type, sync_status;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION "vsync".cids_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records, cid_xor)
    SELECT ispb, key_type, sync_status, sum(change), bit_xor("vsync".cid_bits(cid))
    FROM (SELECT ispb, key_type, sync_status, cid, -1 AS change FROM old_rows
          UNION ALL
          SELECT ispb, key_type, sync_status, cid, 1 FROM new_rows) AS changes
    GROUP BY ispb, key_type, sync_status
    HAVING sum(change) <> 0 OR bit_xor("vsync".cid_bits(cid)) <> repeat('0', 256)::bit(256);
    RETURN NULL;
END
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Repair: what a restore without triggers, or a subscriber of logical replication, left different is put right by deltas
-- from one snapshot. Writers go on, and their own deltas add to it.
-- ---------------------------------------------------------------------------------------------------------------

CREATE VIEW "vsync".cid_sums AS
SELECT ispb, key_type, sync_status, records, cid_xor FROM "vsync".cid_totals WHERE folded
UNION ALL
SELECT ispb, key_type, sync_status, records, cid_xor FROM "vsync".cid_deltas;

COMMENT ON VIEW "vsync".cid_sums IS 'To be added up: the counts and the XOR of the CIDs of each ispb, key type and status';

CREATE FUNCTION "vsync".rebuild_cid_totals() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    repaired bigint;
BEGIN
    -- The snapshot has to be one of behind the lock: what another rebuild has repaired would be repaired once more.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'rebuild_cid_totals is for READ COMMITTED' USING ERRCODE = 'invalid_transaction_state',
            HINT = 'BEGIN ISOLATION LEVEL READ COMMITTED; SELECT "vsync".rebuild_cid_totals(); COMMIT;';
    END IF;
    -- Two at once would repair the same twice. A fold may go on: it changes no sum.
    PERFORM pg_advisory_xact_lock(hashtextextended('vsyncd rebuild_cid_totals "vsync"', 0));
    WITH differing AS (
        INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records, cid_xor)
        SELECT ispb, key_type, sync_status, sum(records), bit_xor(cid_xor)
        FROM (SELECT ispb, key_type, sync_status, count(*) AS records, bit_xor("vsync".cid_bits(cid)) AS cid_xor
              FROM "vsync".cids GROUP BY ispb, key_type, sync_status
              UNION ALL
              SELECT ispb, key_type, sync_status, -records, cid_xor FROM "vsync".cid_sums) AS truth_less_kept
        GROUP BY ispb, key_type, sync_status
        HAVING sum(records) <> 0 OR bit_xor(cid_xor) <> repeat('0', 256)::bit(256)
        RETURNING ispb, key_type
    )
    SELECT count(DISTINCT (ispb, key_type)) INTO repaired FROM differing;
    RETURN repaired;
END
$$;

COMMENT ON FUNCTION "vsync".rebuild_cid_totals IS
    'Makes counts and VSyncs what a full scan says, from one snapshot; how many (ispb, key type) were wrong.';

-- ---------------------------------------------------------------------------------------------------------------
-- The feed of events. `feed` tells what happened in this cluster from what was restored into it, where transaction ids
-- begin anew.
--
-- A physical restore, a failover that loses transactions and a crash behind asynchronous commits all take away the end of
-- the log: what was committed last, which is not what has the highest transaction_id. An event that is there proves that
-- whatever had ended when it was written is there too, which is everything below its horizon. Whether the others before
-- it are there is found out by their number: nothing can have come in their place.
-- ---------------------------------------------------------------------------------------------------------------

ALTER TABLE "vsync".cid_events ADD COLUMN feed integer NOT NULL DEFAULT 1;
ALTER TABLE "vsync".cid_events ADD COLUMN horizon xid8 NOT NULL DEFAULT pg_snapshot_xmin(pg_current_snapshot());

COMMENT ON COLUMN "vsync".cid_events.horizon IS 'Every transaction below it had ended when the event was written';

-- ListCidEvents of a time range: events are written in about the order of their times, so that a summary of each few
-- pages finds it, and a write pays next to nothing for it.
CREATE INDEX cid_events_created_at_idx ON "vsync".cid_events USING brin (created_at)
    WITH (pages_per_range = 16, autosummarize = on);

-- ---------------------------------------------------------------------------------------------------------------
-- vsync_verifications: what the directory said of a VSync that the participant submitted. Append-only.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".vsync_verifications (
    id                        uuid        NOT NULL,
    created_at                timestamptz NOT NULL,
    ispb                      text        COLLATE "C" NOT NULL,
    key_type                  smallint    NOT NULL,
    directory_result          smallint    NOT NULL,
    submitted_vsync           bytea       NOT NULL,
    our_vsync                 bytea       NOT NULL,
    our_count                 bigint      NOT NULL,
    directory_vsync           bytea,
    directory_verification_id text        COLLATE "C",
    last_ok_at                timestamptz,
    actor                     text        COLLATE "C" NOT NULL,
    CONSTRAINT vsync_verifications_pkey PRIMARY KEY (id),
    CONSTRAINT vsync_verifications_created_at_is_the_ids CHECK (created_at = "vsync".uuid_v7_time(id)),
    CONSTRAINT vsync_verifications_ispb CHECK (ispb ~ '^[0-9]{8}$'),
    CONSTRAINT vsync_verifications_key_type CHECK (key_type BETWEEN 1 AND 5),
    CONSTRAINT vsync_verifications_directory_result CHECK (directory_result BETWEEN 1 AND 2),
    CONSTRAINT vsync_verifications_lengths CHECK (
        octet_length(submitted_vsync) = 32 AND octet_length(our_vsync) = 32 AND octet_length(directory_vsync) = 32),
    CONSTRAINT vsync_verifications_our_count CHECK (our_count >= 0),
    CONSTRAINT vsync_verifications_directory_verification_id CHECK (char_length(directory_verification_id) BETWEEN 1 AND 100),
    CONSTRAINT vsync_verifications_actor CHECK (char_length(actor) BETWEEN 1 AND 200)
);

COMMENT ON COLUMN "vsync".vsync_verifications.directory_result IS '1 OK, 2 NOK';
COMMENT ON COLUMN "vsync".vsync_verifications.last_ok_at IS 'When this ispb and key type had last been OK';

-- ListVsyncVerifications, newest first, and the last OK.
CREATE INDEX vsync_verifications_ispb_key_type_id_idx ON "vsync".vsync_verifications (ispb, key_type, id);

CREATE TRIGGER vsync_verifications_append_only BEFORE UPDATE OR DELETE ON "vsync".vsync_verifications
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_change();

CREATE FUNCTION "vsync".grant_reconciliation_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT INSERT ON "vsync".vsync_verifications TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".cid_bits(bytea), "vsync".is_of_this_cluster(xid, xid8) TO %I', service);
END
$$;

REVOKE ALL ON FUNCTION "vsync".cid_bits(bytea), "vsync".is_of_this_cluster(xid, xid8), "vsync".rebuild_cid_totals(),
    "vsync".grant_reconciliation_to_service(name) FROM PUBLIC;

-- At the end, since readers wait from here on.
ALTER TABLE "vsync".cids
    DROP CONSTRAINT cids_cid_key,
    ADD CONSTRAINT cids_cid_key UNIQUE USING INDEX cids_cid_covering_key;
