-- CIDs, their counts and VSyncs, the history of the CID set, and imports.

-- ---------------------------------------------------------------------------------------------------------------
-- cids: one row per key and participant. Enumerations have the numbers of vsync.v1's enums. Lengths are checked with
-- octet_length, because a regular expression that counts to 128 costs ten times as much as all other checks of a row.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".cids (
    id              uuid        NOT NULL DEFAULT "vsync".uuid_v7(now()),
    created_at      timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    updated_at      timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    synced_at       timestamptz,
    revision        bigint      NOT NULL DEFAULT 1,
    key_type        smallint    NOT NULL,
    account_type    smallint    NOT NULL,
    sync_status     smallint    NOT NULL DEFAULT 1,
    cid             bytea       NOT NULL,
    key_value       text        COLLATE "C" NOT NULL,
    ispb            text        COLLATE "C" NOT NULL,
    branch          text        COLLATE "C",
    account_number  text        COLLATE "C" NOT NULL,
    tax_id          text        COLLATE "C" NOT NULL,
    dict_request_id uuid,
    last_error      text,

    CONSTRAINT cids_pkey PRIMARY KEY (id),
    -- GetCid, BatchGetCids, UpdateSyncStatus and every report find a record by its cid. DiffCidSet and RecomputeVsync
    -- read the CIDs of an ispb and key type in order, from the index alone.
    CONSTRAINT cids_cid_key UNIQUE (cid) INCLUDE (ispb, key_type),
    -- GetCid by key, and REPLACE. key_value is first because it is nearly unique.
    CONSTRAINT cids_key_value_ispb_key UNIQUE (key_value, ispb),

    CONSTRAINT cids_created_at_is_the_ids CHECK (created_at = "vsync".uuid_v7_time(id)),
    CONSTRAINT cids_cid_length CHECK (octet_length(cid) = 32),
    CONSTRAINT cids_key_type CHECK (key_type BETWEEN 1 AND 5),
    CONSTRAINT cids_account_type CHECK (account_type BETWEEN 1 AND 4),
    CONSTRAINT cids_sync_status CHECK (sync_status BETWEEN 1 AND 3),
    CONSTRAINT cids_ispb CHECK (ispb ~ '^[0-9]{8}$'),
    CONSTRAINT cids_branch CHECK (branch ~ '^[0-9]+$' AND octet_length(branch) <= 10),
    CONSTRAINT cids_account_number CHECK (account_number ~ '^[0-9]+$' AND octet_length(account_number) <= 20),
    CONSTRAINT cids_tax_id CHECK (tax_id ~ '^([0-9]{11}|[0-9A-Z]{12}[0-9]{2})$'),
    CONSTRAINT cids_key_value CHECK (
        octet_length(key_value) <= 77 AND
        CASE key_type
            WHEN 1 THEN key_value ~ '^[0-9]{11}$'
            WHEN 2 THEN key_value ~ '^[0-9A-Z]{12}[0-9]{2}$'
            WHEN 3 THEN key_value ~ '^\+[1-9][0-9]+$' AND octet_length(key_value) <= 16
            WHEN 4 THEN key_value ~ '^[a-z0-9.!#$%&''*+/=?^_`{|}~-]+@[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'
            WHEN 5 THEN key_value ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
        END),
    CONSTRAINT cids_synced_at CHECK (sync_status <> 2 OR synced_at IS NOT NULL),
    CONSTRAINT cids_last_error CHECK ((sync_status = 3) = (last_error IS NOT NULL) AND char_length(last_error) <= 1000),
    CONSTRAINT cids_revision CHECK (revision >= 1)
);

-- ListCids and ExportCids by ispb and key type, in creation order. A list by ispb alone reads it once per key type.
CREATE INDEX cids_ispb_key_type_id_idx ON "vsync".cids (ispb, key_type, id);
-- ListCids by owner.
CREATE INDEX cids_tax_id_id_idx ON "vsync".cids (tax_id, id);
-- ListCids by status, and StartSyncBatch. Nearly every record is SYNCED; the other indexes serve those.
CREATE INDEX cids_sync_status_id_idx ON "vsync".cids (sync_status, id) WHERE sync_status <> 2;

-- For psql: the CID in hexadecimal digits, the names of the enumerations, and times in UTC. A condition on its cid reads the
-- whole table; use cids for it. The rights of the caller count, so the view shows nothing that cids does not.
CREATE VIEW "vsync".cids_readable WITH (security_invoker = true) AS
SELECT id, encode(cid, 'hex') AS cid,
       (ARRAY['CPF', 'CNPJ', 'PHONE', 'EMAIL', 'EVP'])[key_type] AS key_type,
       key_value, ispb, branch, account_number,
       (ARRAY['CACC', 'SVGS', 'TRAN', 'SLRY'])[account_type] AS account_type,
       tax_id, dict_request_id,
       (ARRAY['PENDING', 'SYNCED', 'FAILED'])[sync_status] AS sync_status,
       created_at AT TIME ZONE 'UTC' AS created_at,
       updated_at AT TIME ZONE 'UTC' AS updated_at,
       synced_at AT TIME ZONE 'UTC' AS synced_at,
       last_error, revision
FROM "vsync".cids;

COMMENT ON VIEW "vsync".cids_readable IS 'cids for psql: hexadecimal CIDs, names of enumerations, times in UTC.';

-- ---------------------------------------------------------------------------------------------------------------
-- cid_totals: the counts and the XOR of the CIDs, by ispb, key type and status. Insert-only, because writers that update
-- one sum would wait for each other. A row is a delta, added by a trigger for one statement, or (folded) the sum of all
-- deltas of its group up to a fold. The sum of all rows that a snapshot sees is correct for that snapshot: a fold inserts
-- the sum and deletes the deltas in one transaction.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".cid_bits(cid bytea) RETURNS bit(256)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ('x' || encode(cid, 'hex'))::bit(256);

COMMENT ON FUNCTION "vsync".cid_bits IS 'Converts a CID for bit_xor. bit_send(...) without its first 4 bytes converts it back.';

CREATE TABLE "vsync".cid_totals (
    ispb           text     COLLATE "C" NOT NULL,
    key_type       smallint NOT NULL,
    sync_status    smallint NOT NULL,
    folded         boolean  NOT NULL DEFAULT false,
    records        bigint   NOT NULL,
    transaction_id xid8     NOT NULL DEFAULT pg_current_xact_id(),
    seq            bigint   GENERATED ALWAYS AS IDENTITY,
    cid_xor        bit(256) NOT NULL DEFAULT repeat('0', 256)::bit(256),
    -- The deltas since the last fold. Logical replication identifies the rows that a fold deletes by it.
    CONSTRAINT cid_totals_pkey PRIMARY KEY (transaction_id, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_threshold = 2000, autovacuum_vacuum_insert_scale_factor = 0);

-- The sums of a group. The rows of the last fold have the highest transaction_id, so a reader finds them before the dead
-- rows that an old snapshot keeps.
CREATE INDEX cid_totals_folded_idx ON "vsync".cid_totals (ispb, key_type, transaction_id) WHERE folded;

-- ---------------------------------------------------------------------------------------------------------------
-- cid_folds: one row, the last fold with its snapshot. The fold deleted every delta that this snapshot sees, so a reader
-- starts after them and skips the dead rows of earlier folds, which an old snapshot may keep for hours. A fold inserts a
-- row and deletes the previous one instead of updating it: the newest row is then first in the index.
--
-- An xid8 has no meaning in another cluster. A row that pg_restore or logical replication wrote is recognised by its xmin,
-- which differs from its transaction_id. Until the next fold readers then add up every delta, and that fold begins a new
-- feed of events.
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

COMMENT ON COLUMN "vsync".cid_folds.feed IS 'The value of cid_events.feed for new events. It changes after a restore.';
COMMENT ON COLUMN "vsync".cid_folds.within IS
    'The transaction of the fold, if it had written before: its snapshot does not name it, and it may write more';

INSERT INTO "vsync".cid_folds (snapshot, feed) SELECT pg_current_snapshot(), 1;

-- The last fold for readers: they add the deltas with transaction_id >= first or in late to the sums.
CREATE VIEW "vsync".last_fold AS
SELECT feed, feed_id, feed_began, is_ours,
       CASE WHEN is_ours THEN pg_snapshot_xmax(snapshot) ELSE '0'::xid8 END AS first,
       CASE WHEN is_ours THEN ARRAY(SELECT pg_snapshot_xip(snapshot)) || within ELSE '{}' END AS late
FROM (SELECT *, "vsync".is_of_this_cluster(xmin, transaction_id) AS is_ours
      FROM "vsync".cid_folds ORDER BY number DESC LIMIT 1) AS fold;

-- The upper bound excludes nothing. With a lower bound alone the planner expects a third of all rows, and reads the whole
-- table with its dead rows.
CREATE VIEW "vsync".cid_deltas AS
SELECT ispb, key_type, sync_status, records, cid_xor
FROM "vsync".cid_totals WHERE NOT folded AND transaction_id
    BETWEEN (SELECT first FROM "vsync".last_fold) AND '18446744073709551615'::xid8
UNION ALL
SELECT ispb, key_type, sync_status, records, cid_xor
FROM "vsync".cid_totals WHERE NOT folded AND transaction_id = ANY ((SELECT late FROM "vsync".last_fold)::xid8[]);

COMMENT ON VIEW "vsync".cid_deltas IS 'The changes since the last fold.';

CREATE VIEW "vsync".cid_sums AS
SELECT ispb, key_type, sync_status, records, cid_xor FROM "vsync".cid_totals WHERE folded
UNION ALL
SELECT ispb, key_type, sync_status, records, cid_xor FROM "vsync".cid_deltas;

COMMENT ON VIEW "vsync".cid_sums IS 'To be added up: counts and XOR of the CIDs by ispb, key type and status.';

-- ---------------------------------------------------------------------------------------------------------------
-- cid_events: every CID that was added or removed, with the audit entry of the mutation. Triggers write it, so it also has
-- changes made by hand. Neither ids nor sequences follow commit order: a reader orders by (transaction_id, seq) and stays
-- below pg_snapshot_xmin.
--
-- `feed` separates the events of this cluster from those restored into it, where transaction ids start again.
--
-- A physical restore, a failover that loses transactions and a crash after asynchronous commits remove the end of the log:
-- the last commits, which need not have the highest transaction ids. An event that exists proves that every transaction
-- below its horizon exists too. A reader checks the other events before it by their number, because nothing else can have
-- taken their place.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".cid_events (
    seq            bigint      GENERATED ALWAYS AS IDENTITY,
    transaction_id xid8        NOT NULL DEFAULT pg_current_xact_id(),
    horizon        xid8        NOT NULL DEFAULT pg_snapshot_xmin(pg_current_snapshot()),
    created_at     timestamptz NOT NULL DEFAULT now(),
    audit_id       uuid,
    feed           integer     NOT NULL DEFAULT 1,
    key_type       smallint    NOT NULL,
    change         smallint    NOT NULL,
    ispb           text        COLLATE "C" NOT NULL,
    cid            bytea       NOT NULL,
    -- The order of the feed.
    CONSTRAINT cid_events_pkey PRIMARY KEY (transaction_id, seq, created_at),
    CONSTRAINT cid_events_change CHECK (change BETWEEN 1 AND 2),
    CONSTRAINT cid_events_key_type CHECK (key_type BETWEEN 1 AND 5),
    CONSTRAINT cid_events_cid_length CHECK (octet_length(cid) = 32)
) PARTITION BY RANGE (created_at);

COMMENT ON COLUMN "vsync".cid_events.change IS '1 ADDED, 2 REMOVED';
COMMENT ON COLUMN "vsync".cid_events.audit_id IS 'NULL: changed by hand, without the service';
COMMENT ON COLUMN "vsync".cid_events.horizon IS 'Every transaction below it had ended when the event was written';

-- ListAuditLogs by cid finds the imports and batches that changed it. A hash index, because 32 random bytes have no order.
CREATE INDEX cid_events_cid_idx ON "vsync".cid_events USING hash (cid);
-- ListCidEvents by time range. Events are written roughly in the order of their times, so a summary per few pages finds
-- a time and costs writers almost nothing.
CREATE INDEX cid_events_created_at_idx ON "vsync".cid_events USING brin (created_at)
    WITH (pages_per_range = 16, autosummarize = on);

CREATE TRIGGER cid_events_append_only BEFORE UPDATE OR DELETE ON "vsync".cid_events
    FOR EACH ROW EXECUTE FUNCTION "vsync".refuse_change();
CREATE TRIGGER cid_events_truncated BEFORE TRUNCATE ON "vsync".cid_events
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

SELECT "vsync".register_partitioned_table('cid_events', 'month', 'EVENT_RETENTION_DAYS');

-- ---------------------------------------------------------------------------------------------------------------
-- Triggers of cids maintain cid_totals and cid_events. The setting vsync.audit_id of the transaction has the audit entry's
-- id. Its value 'record' means that each new record has an audit entry with the record's id: one statement writes the
-- records of concurrent CreateCid calls. SECURITY DEFINER: the service's role cannot write events and totals itself.
-- Without the setting, the change was made by hand: it has an audit entry per statement and participant.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".audit_change_by_hand(operation text, ispb text, changed bigint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO "vsync".audit_logs (id, created_at, correlation_id, recorded_by, action, ispb, payload)
    SELECT id, "vsync".uuid_v7_time(id), 'by-hand', 'role:' || session_user, 'vsync.by-hand/' || operation || ' cids', ispb,
           jsonb_build_object('records', changed, 'application', current_setting('application_name'))
    FROM "vsync".uuid_v7(clock_timestamp()) AS id;
$$;

COMMENT ON FUNCTION "vsync".audit_change_by_hand IS 'Writes the audit entry of a change outside the service.';

CREATE FUNCTION "vsync".cids_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

CREATE FUNCTION "vsync".cids_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

CREATE FUNCTION "vsync".cids_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

CREATE FUNCTION "vsync".cid_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    audit uuid := nullif(current_setting('vsync.audit_id', true), '')::uuid;
BEGIN
    INSERT INTO "vsync".cid_events (ispb, key_type, change, cid, audit_id)
    VALUES (OLD.ispb, OLD.key_type, 2, OLD.cid, audit), (NEW.ispb, NEW.key_type, 1, NEW.cid, audit);
    RETURN NULL;
END
$$;

CREATE FUNCTION "vsync".cid_removed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO "vsync".cid_events (ispb, key_type, change, cid, audit_id)
    VALUES (OLD.ispb, OLD.key_type, 2, OLD.cid, nullif(current_setting('vsync.audit_id', true), '')::uuid);
    RETURN NULL;
END
$$;

CREATE TRIGGER cids_inserted AFTER INSERT ON "vsync".cids
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION "vsync".cids_inserted();
CREATE TRIGGER cids_deleted AFTER DELETE ON "vsync".cids
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION "vsync".cids_deleted();
CREATE TRIGGER cids_updated AFTER UPDATE ON "vsync".cids
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION "vsync".cids_updated();
-- Row triggers fire in the order of the changes and before statement triggers: if one statement deletes a record and gives
-- its CID to another record, the CID is removed before it is added. The WHEN clause spares the many updates that only
-- change a status.
CREATE TRIGGER cid_changed AFTER UPDATE ON "vsync".cids
    FOR EACH ROW WHEN (OLD.cid <> NEW.cid OR OLD.ispb <> NEW.ispb OR OLD.key_type <> NEW.key_type)
    EXECUTE FUNCTION "vsync".cid_changed();
CREATE TRIGGER cid_removed AFTER DELETE ON "vsync".cids
    FOR EACH ROW EXECUTE FUNCTION "vsync".cid_removed();
-- A TRUNCATE would change neither history nor counts.
CREATE TRIGGER cids_truncated BEFORE TRUNCATE ON "vsync".cids
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

CREATE FUNCTION "vsync".fold_cid_totals() RETURNS bigint
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

COMMENT ON FUNCTION "vsync".fold_cid_totals IS
    'Sums up the deltas of cid_totals and returns their number; 0 if another session is doing so.';

-- ---------------------------------------------------------------------------------------------------------------
-- Repair after a restore without triggers, or on a subscriber of logical replication: deltas computed in one snapshot
-- correct the sums. Writers continue, and their own deltas add to the result.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".rebuild_cid_totals() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

COMMENT ON FUNCTION "vsync".rebuild_cid_totals IS
    'Corrects counts and VSyncs to those of a full scan, in one snapshot. Returns how many (ispb, key type) were wrong.';

-- ---------------------------------------------------------------------------------------------------------------
-- imports and import_chunks: a chunk's answer is committed together with its rows.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".imports (
    import_id           uuid        NOT NULL,
    actor               text        COLLATE "C" NOT NULL,
    on_conflict         smallint    NOT NULL,
    initial_sync_status smallint    NOT NULL,
    last_number         bigint      NOT NULL DEFAULT 0,
    inserted            bigint      NOT NULL DEFAULT 0,
    skipped             bigint      NOT NULL DEFAULT 0,
    replaced            bigint      NOT NULL DEFAULT 0,
    rejected            bigint      NOT NULL DEFAULT 0,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT imports_pkey PRIMARY KEY (import_id),
    CONSTRAINT imports_on_conflict CHECK (on_conflict BETWEEN 1 AND 3),
    CONSTRAINT imports_initial_sync_status CHECK (initial_sync_status BETWEEN 1 AND 2),
    CONSTRAINT imports_counts CHECK (last_number >= 0 AND inserted >= 0 AND skipped >= 0 AND replaced >= 0 AND rejected >= 0)
);

-- GetStatus: imports in progress.
CREATE INDEX imports_updated_at_idx ON "vsync".imports (updated_at);

CREATE TABLE "vsync".import_chunks (
    import_id   uuid   NOT NULL,
    number      bigint NOT NULL,
    fingerprint bytea  NOT NULL,
    answer      bytea  NOT NULL,
    CONSTRAINT import_chunks_pkey PRIMARY KEY (import_id, number),
    CONSTRAINT import_chunks_import_id_fkey FOREIGN KEY (import_id) REFERENCES "vsync".imports ON DELETE CASCADE,
    CONSTRAINT import_chunks_number CHECK (number >= 1),
    CONSTRAINT import_chunks_fingerprint CHECK (octet_length(fingerprint) = 16)
);

-- The service's role changes neither events nor totals itself. rebuild_cid_totals is for the owner.
CREATE FUNCTION "vsync".grant_vsync_cids_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON "vsync".cids, "vsync".imports, "vsync".import_chunks TO %I',
                   service);
    EXECUTE format('GRANT SELECT ON "vsync".cid_events, "vsync".cid_totals, "vsync".cid_folds, "vsync".last_fold,
                    "vsync".cid_deltas, "vsync".cid_sums, "vsync".cids_readable TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".cid_bits(bytea), "vsync".fold_cid_totals() TO %I', service);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "vsync" FROM PUBLIC;
