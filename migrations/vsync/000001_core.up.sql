-- The whole of vsyncd's data. "vsync" is the schema; a service configured with another DB_SCHEMA runs these files with
-- that name in its place, wherever it stands in double quotes. Every name is qualified: poolers and pg_restore change
-- search_path. Text is COLLATE "C": keys and codes are compared as bytes, and an index over them survives a change of
-- the operating system's collations.
--
-- The schema itself is made by whoever runs this (vsyncd migrate; by hand: CREATE SCHEMA "vsync" first).

-- Ids are UUID v7 (RFC 9562, 5.7): 48 bits of Unix milliseconds first, so that an id's order is the order of creation
-- and a time range is an id range.

CREATE FUNCTION "vsync".uuid_v7_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;

COMMENT ON FUNCTION "vsync".uuid_v7_floor IS 'The least uuid of that millisecond.';

CREATE FUNCTION "vsync".uuid_v7(at timestamptz) RETURNS uuid
LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0')
        || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid;

COMMENT ON FUNCTION "vsync".uuid_v7 IS 'A new id for rows that are inserted by hand; the service makes its own.';

-- By its bytes, not through its text: it is checked for every row. To the microsecond until the year 2255.
CREATE FUNCTION "vsync".uuid_v7_time(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (timestamp 'epoch' + interval '1 ms' * (
    (get_byte(uuid_send(id), 0)::bigint << 40) | (get_byte(uuid_send(id), 1)::bigint << 32)
    | (get_byte(uuid_send(id), 2)::bigint << 24) | (get_byte(uuid_send(id), 3) << 16)
    | (get_byte(uuid_send(id), 4) << 8) | get_byte(uuid_send(id), 5))) AT TIME ZONE 'UTC';

-- ---------------------------------------------------------------------------------------------------------------
-- cids: one row a key at a participant. Enumerations are the numbers of vsync.v1's enums. Lengths are checked as lengths:
-- a regular expression that counts to 128 takes PostgreSQL ten times as long as the rest of the row's checks.
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
    -- GetCid, BatchGetCids, UpdateSyncStatus and every report find a record by its cid; no two keys share one.
    CONSTRAINT cids_cid_key UNIQUE (cid),
    -- GetCid by key, and REPLACE. key_value first: it tells rows apart at the first comparison.
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

-- ListCids and ExportCids by ispb and key type, in the order of creation; by ispb alone it is read once a key type.
CREATE INDEX cids_ispb_key_type_id_idx ON "vsync".cids (ispb, key_type, id);
-- ListCids by owner.
CREATE INDEX cids_tax_id_id_idx ON "vsync".cids (tax_id, id);
-- ListCids by status, and StartSyncBatch. Nearly every record is SYNCED: those are found by the other indexes.
CREATE INDEX cids_sync_status_id_idx ON "vsync".cids (sync_status, id) WHERE sync_status <> 2;

-- ---------------------------------------------------------------------------------------------------------------
-- cid_totals: what CountCids adds up. Insert-only: a statement that changes cids adds a row a group, so that writers
-- never wait for each other; fold_cid_totals sums them up behind.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".cid_totals (
    ispb        text     COLLATE "C" NOT NULL,
    key_type    smallint NOT NULL,
    sync_status smallint NOT NULL,
    records     bigint   NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_threshold = 2000, autovacuum_vacuum_insert_scale_factor = 0);

-- CountCids of one ispb.
CREATE INDEX cid_totals_ispb_idx ON "vsync".cid_totals (ispb);

-- ---------------------------------------------------------------------------------------------------------------
-- cid_events: each CID that came or went, with the audit entry of the mutation. Written by triggers, so that a change
-- by hand stands here too. Neither ids nor sequences follow the order of commits: a reader goes by (transaction_id,
-- seq) and stays below pg_snapshot_xmin.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".cid_events (
    seq            bigint      GENERATED ALWAYS AS IDENTITY,
    transaction_id xid8        NOT NULL DEFAULT pg_current_xact_id(),
    created_at     timestamptz NOT NULL DEFAULT now(),
    audit_id       uuid,
    key_type       smallint    NOT NULL,
    change         smallint    NOT NULL,
    ispb           text        COLLATE "C" NOT NULL,
    cid            bytea       NOT NULL,
    -- The feed's order.
    CONSTRAINT cid_events_pkey PRIMARY KEY (transaction_id, seq, created_at),
    CONSTRAINT cid_events_change CHECK (change BETWEEN 1 AND 2),
    CONSTRAINT cid_events_key_type CHECK (key_type BETWEEN 1 AND 5),
    CONSTRAINT cid_events_cid_length CHECK (octet_length(cid) = 32)
) PARTITION BY RANGE (created_at);

COMMENT ON COLUMN "vsync".cid_events.change IS '1 ADDED, 2 REMOVED';
COMMENT ON COLUMN "vsync".cid_events.audit_id IS 'NULL: changed by hand, past the service';

-- ListAuditLogs by cid finds the imports and batches that touched it. A hash: 32 random bytes have no order to keep.
CREATE INDEX cid_events_cid_idx ON "vsync".cid_events USING hash (cid);

-- ---------------------------------------------------------------------------------------------------------------
-- audit_logs: append-only, partitioned by month on the time in the id.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".audit_logs (
    id             uuid        NOT NULL DEFAULT "vsync".uuid_v7(now()),
    created_at     timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    correlation_id text        COLLATE "C" NOT NULL,
    actor          text        COLLATE "C" NOT NULL,
    action         text        COLLATE "C" NOT NULL,
    key_value      text        COLLATE "C",
    cid            bytea,
    payload        jsonb,
    -- GetAuditLog.
    CONSTRAINT audit_logs_pkey PRIMARY KEY (id),
    CONSTRAINT audit_logs_created_at_is_the_ids CHECK (created_at = "vsync".uuid_v7_time(id)),
    CONSTRAINT audit_logs_correlation_id CHECK (correlation_id ~ '^[!-~]+$' AND octet_length(correlation_id) <= 128),
    CONSTRAINT audit_logs_actor CHECK (char_length(actor) BETWEEN 1 AND 200),
    CONSTRAINT audit_logs_action CHECK (char_length(action) BETWEEN 1 AND 100),
    CONSTRAINT audit_logs_key_value CHECK (char_length(key_value) BETWEEN 1 AND 77),
    CONSTRAINT audit_logs_cid_length CHECK (octet_length(cid) = 32),
    CONSTRAINT audit_logs_payload CHECK (jsonb_typeof(payload) = 'object')
) PARTITION BY RANGE (id);

-- ListAuditLogs, one index a way of asking, newest first. Most entries name no key and no cid.
CREATE INDEX audit_logs_correlation_id_id_idx ON "vsync".audit_logs (correlation_id, id);
CREATE INDEX audit_logs_key_value_id_idx ON "vsync".audit_logs (key_value, id) WHERE key_value IS NOT NULL;
CREATE INDEX audit_logs_cid_id_idx ON "vsync".audit_logs (cid, id) WHERE cid IS NOT NULL;
CREATE INDEX audit_logs_action_id_idx ON "vsync".audit_logs (action, id);
CREATE INDEX audit_logs_actor_id_idx ON "vsync".audit_logs (actor, id);

-- The roles keep a service from changing history; this keeps everyone else from doing so in passing.
CREATE FUNCTION "vsync".refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_logs_append_only BEFORE UPDATE OR DELETE ON "vsync".audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_change();
CREATE TRIGGER cid_events_append_only BEFORE UPDATE OR DELETE ON "vsync".cid_events
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_change();

-- ---------------------------------------------------------------------------------------------------------------
-- What follows a change of cids, whoever makes it. The audit entry's id comes in the setting vsync.audit_id of the
-- transaction; 'record' says that each new record has an audit entry with its own id (concurrent CreateCid calls are
-- written by one statement). SECURITY DEFINER: the service's role cannot write events or totals itself.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".cids_inserted() RETURNS trigger
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

CREATE FUNCTION "vsync".cids_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO "vsync".cid_totals (ispb, key_type, sync_status, records)
    SELECT ispb, key_type, sync_status, -count(*) FROM old_rows GROUP BY ispb, key_type, sync_status;
    RETURN NULL;
END
$$;

CREATE FUNCTION "vsync".cids_updated() RETURNS trigger
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

-- History and counts cannot follow a TRUNCATE.
CREATE FUNCTION "vsync".refuse_truncate() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% cannot be truncated: delete the rows', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER cids_inserted AFTER INSERT ON "vsync".cids
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION "vsync".cids_inserted();
CREATE TRIGGER cids_deleted AFTER DELETE ON "vsync".cids
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION "vsync".cids_deleted();
CREATE TRIGGER cids_updated AFTER UPDATE ON "vsync".cids
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION "vsync".cids_updated();
-- Row triggers come in the order of the changes, and before those of statements: one that deletes a record and gives its
-- CID to another one has the CID go before it comes. The many updates that only change a status pay nothing for it.
CREATE TRIGGER cid_changed AFTER UPDATE ON "vsync".cids
    FOR EACH ROW WHEN (OLD.cid <> NEW.cid OR OLD.ispb <> NEW.ispb OR OLD.key_type <> NEW.key_type)
    EXECUTE FUNCTION "vsync".cid_changed();
CREATE TRIGGER cid_removed AFTER DELETE ON "vsync".cids
    FOR EACH ROW EXECUTE FUNCTION "vsync".cid_removed();
CREATE TRIGGER cids_truncated BEFORE TRUNCATE ON "vsync".cids
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

CREATE FUNCTION "vsync".fold_cid_totals() RETURNS bigint
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

-- ---------------------------------------------------------------------------------------------------------------
-- request_ids: a mutation that names itself takes effect once. Partitioned by week. A unique index cannot span
-- partitions, so within ten minutes of a week's begin a request is written to both weeks (see claim_request_id in
-- postgres/queries.sql), and an older one is looked for in every partition.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".request_ids (
    request_id  uuid  NOT NULL,
    week        date  NOT NULL,
    actor       text  COLLATE "C" NOT NULL,
    method      text  COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    answer      bytea NOT NULL,
    CONSTRAINT request_ids_pkey PRIMARY KEY (request_id, actor, method, week),
    CONSTRAINT request_ids_week CHECK (extract(isodow FROM week) = 1),
    CONSTRAINT request_ids_fingerprint CHECK (octet_length(fingerprint) = 16)
) PARTITION BY RANGE (week);

-- ---------------------------------------------------------------------------------------------------------------
-- imports and import_chunks: a chunk's answer is committed with its rows.
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

-- ---------------------------------------------------------------------------------------------------------------
-- sync_batches, and the narrow table of their records: a lease changes 100 bytes here and nothing in cids.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".sync_batches (
    id              uuid        NOT NULL DEFAULT "vsync".uuid_v7(now()),
    batch_date      date        NOT NULL,
    ispb            text        COLLATE "C" NOT NULL DEFAULT '',
    status          smallint    NOT NULL DEFAULT 1,
    total_records   bigint      NOT NULL DEFAULT 0,
    synced_records  bigint      NOT NULL DEFAULT 0,
    failed_records  bigint      NOT NULL DEFAULT 0,
    skipped_records bigint      NOT NULL DEFAULT 0,
    -- How far StartSyncBatch has come: the id of the last CID it took in.
    intake_cursor   uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    created_at      timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    updated_at      timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    started_at      timestamptz,
    completed_at    timestamptz,
    error_message   text        NOT NULL DEFAULT '',
    revision        bigint      NOT NULL DEFAULT 1,
    CONSTRAINT sync_batches_pkey PRIMARY KEY (id),
    -- One a day and ispb; GetSyncBatch by key, and ListSyncBatches without a status.
    CONSTRAINT sync_batches_batch_date_ispb_key UNIQUE (batch_date, ispb),
    CONSTRAINT sync_batches_ispb CHECK (ispb ~ '^([0-9]{8})?$'),
    CONSTRAINT sync_batches_status CHECK (status BETWEEN 1 AND 5),
    CONSTRAINT sync_batches_counts CHECK (
        synced_records >= 0 AND failed_records >= 0 AND skipped_records >= 0
        AND synced_records + failed_records + skipped_records <= total_records),
    CONSTRAINT sync_batches_started_at CHECK (status NOT IN (3, 4) OR started_at IS NOT NULL),
    CONSTRAINT sync_batches_completed CHECK (
        (status = 4) = (completed_at IS NOT NULL)
        AND (status <> 4 OR synced_records + failed_records + skipped_records = total_records)),
    CONSTRAINT sync_batches_error_message CHECK (
        (status = 5) = (error_message <> '') AND char_length(error_message) <= 1000),
    CONSTRAINT sync_batches_revision CHECK (revision >= 1)
);

-- ListSyncBatches by status, and the search for an open batch over the same CIDs.
CREATE INDEX sync_batches_status_idx ON "vsync".sync_batches (status, batch_date, ispb);

CREATE TABLE "vsync".sync_batch_records (
    batch_id    uuid        NOT NULL,
    claim_token uuid,
    -- Which record the claim handed out: its id and its revision. A report is of that one alone.
    claimed_id  uuid,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    claimed_revision bigint,
    outcome     smallint,
    cid         bytea       NOT NULL,
    CONSTRAINT sync_batch_records_pkey PRIMARY KEY (batch_id, cid),
    CONSTRAINT sync_batch_records_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES "vsync".sync_batches,
    CONSTRAINT sync_batch_records_cid_length CHECK (octet_length(cid) = 32),
    CONSTRAINT sync_batch_records_outcome CHECK (outcome BETWEEN 1 AND 3)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);

COMMENT ON COLUMN "vsync".sync_batch_records.outcome IS '1 SYNCED, 2 FAILED, 3 skipped; NULL: open';

-- ClaimSyncRecords: what was never leased, then what ran out first.
CREATE INDEX sync_batch_records_open_idx ON "vsync".sync_batch_records (batch_id, lease_until) WHERE outcome IS NULL;
-- ReportSyncRecords, ExtendSyncLease and ReleaseSyncRecords.
CREATE INDEX sync_batch_records_claim_token_idx ON "vsync".sync_batch_records (claim_token)
    WHERE claim_token IS NOT NULL;
-- RetrySyncBatch.
CREATE INDEX sync_batch_records_failed_idx ON "vsync".sync_batch_records (batch_id) WHERE outcome = 2;

-- ---------------------------------------------------------------------------------------------------------------
-- Partitions, made ahead. Created apart and then attached: CREATE TABLE ... PARTITION OF would lock the parent against
-- reads. SECURITY DEFINER: the service makes them, without the right to create tables.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".make_partition(parent text, suffix text, lower_bound text, upper_bound text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := parent || '_' || suffix;
BEGIN
    IF to_regclass(format('"vsync".%I', partition)) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE "vsync".%I (LIKE "vsync".%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition, parent);
    EXECUTE format('ALTER TABLE "vsync".%I ATTACH PARTITION "vsync".%I FOR VALUES FROM (%L) TO (%L)',
                   parent, partition, lower_bound, upper_bound);
    RETURN true;
END
$$;

CREATE FUNCTION "vsync".make_partitions() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    made  integer := 0;
    start timestamp;
    stop  timestamp;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('vsyncd make_partitions "vsync"', 0));
    -- From yesterday's month or week on: a clock may be a little behind.
    FOR start IN SELECT generate_series(date_trunc('month', localtimestamp - interval '1 day'),
                                        localtimestamp + interval '3 months', interval '1 month') LOOP
        stop := start + interval '1 month';
        made := made
            + "vsync".make_partition('audit_logs', to_char(start, 'YYYY_MM'),
                                     "vsync".uuid_v7_floor(start)::text, "vsync".uuid_v7_floor(stop)::text)::integer
            + "vsync".make_partition('cid_events', to_char(start, 'YYYY_MM'),
                                     start::timestamptz::text, stop::timestamptz::text)::integer;
    END LOOP;
    FOR start IN SELECT generate_series(date_trunc('week', localtimestamp - interval '1 day'),
                                        localtimestamp + interval '8 weeks', interval '1 week') LOOP
        made := made + "vsync".make_partition('request_ids', to_char(start, 'IYYY_"w"IW'),
                                              start::date::text, (start + interval '1 week')::date::text)::integer;
    END LOOP;
    RETURN made;
END
$$;

COMMENT ON FUNCTION "vsync".make_partitions IS 'Makes the partitions of the next months and weeks; how many were missing.';

SELECT "vsync".make_partitions();

-- ---------------------------------------------------------------------------------------------------------------
-- Roles. The owner migrates. The service's role gets what it needs by SELECT "vsync".grant_to_service('its_name'),
-- which `vsyncd migrate` calls when the two differ: it neither changes nor deletes audit entries, events and requests.
-- ---------------------------------------------------------------------------------------------------------------

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "vsync" FROM PUBLIC;

CREATE FUNCTION "vsync".grant_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA "vsync" TO %I', service);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA "vsync" TO %I', service);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON "vsync".cids, "vsync".sync_batches, "vsync".sync_batch_records,
                    "vsync".imports, "vsync".import_chunks TO %I', service);
    EXECUTE format('GRANT INSERT ON "vsync".audit_logs, "vsync".request_ids TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".uuid_v7(timestamptz), "vsync".uuid_v7_floor(timestamptz),
                    "vsync".uuid_v7_time(uuid), "vsync".fold_cid_totals(), "vsync".make_partitions(),
                    "vsync".refuse_change(), "vsync".refuse_truncate() TO %I', service);
END
$$;

REVOKE ALL ON FUNCTION "vsync".grant_to_service(name) FROM PUBLIC;
