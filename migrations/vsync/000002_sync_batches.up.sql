-- sync_batches, and a narrow table of their records: a lease rewrites 100 bytes here and nothing in cids.

CREATE TABLE "vsync".sync_batches (
    id              uuid        NOT NULL DEFAULT "vsync".uuid_v7(now()),
    batch_date      date        NOT NULL,
    ispb            text        COLLATE "C" NOT NULL DEFAULT '',
    status          smallint    NOT NULL DEFAULT 1,
    total_records   bigint      NOT NULL DEFAULT 0,
    synced_records  bigint      NOT NULL DEFAULT 0,
    failed_records  bigint      NOT NULL DEFAULT 0,
    skipped_records bigint      NOT NULL DEFAULT 0,
    -- The id of the last CID that StartSyncBatch has added to the batch.
    intake_cursor   uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    created_at      timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    updated_at      timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    started_at      timestamptz,
    completed_at    timestamptz,
    error_message   text        NOT NULL DEFAULT '',
    revision        bigint      NOT NULL DEFAULT 1,
    CONSTRAINT sync_batches_pkey PRIMARY KEY (id),
    -- One batch per day and ispb. GetSyncBatch by key, and ListSyncBatches without a status.
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

-- ListSyncBatches by status, and the search for an open batch with the same CIDs.
CREATE INDEX sync_batches_status_idx ON "vsync".sync_batches (status, batch_date, ispb);

CREATE TABLE "vsync".sync_batch_records (
    batch_id    uuid        NOT NULL,
    claim_token uuid,
    -- The record that was claimed and its revision. A report applies to that revision only.
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

-- ClaimSyncRecords: records that were never leased, then those whose lease expired first.
CREATE INDEX sync_batch_records_open_idx ON "vsync".sync_batch_records (batch_id, lease_until) WHERE outcome IS NULL;
-- ReportSyncRecords, ExtendSyncLease and ReleaseSyncRecords.
CREATE INDEX sync_batch_records_claim_token_idx ON "vsync".sync_batch_records (claim_token)
    WHERE claim_token IS NOT NULL;
-- RetrySyncBatch.
CREATE INDEX sync_batch_records_failed_idx ON "vsync".sync_batch_records (batch_id) WHERE outcome = 2;

CREATE FUNCTION "vsync".grant_vsync_sync_batches_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON "vsync".sync_batches, "vsync".sync_batch_records TO %I', service);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "vsync" FROM PUBLIC;
