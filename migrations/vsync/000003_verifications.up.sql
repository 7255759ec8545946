-- vsync_verifications: the directory's answers to the VSyncs that the participant submitted. Append-only.

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
COMMENT ON COLUMN "vsync".vsync_verifications.last_ok_at IS 'The time of the last OK for this ispb and key type';

-- ListVsyncVerifications, newest first, and the time of the last OK.
CREATE INDEX vsync_verifications_ispb_key_type_id_idx ON "vsync".vsync_verifications (ispb, key_type, id);

-- GetStatus: since when the verdict is OK.
CREATE INDEX vsync_verifications_nok_idx ON "vsync".vsync_verifications (ispb, key_type, id)
    WHERE directory_result = 2;

CREATE TRIGGER vsync_verifications_append_only BEFORE UPDATE OR DELETE ON "vsync".vsync_verifications
    FOR EACH ROW EXECUTE FUNCTION "vsync".refuse_change();
CREATE TRIGGER vsync_verifications_truncated BEFORE TRUNCATE ON "vsync".vsync_verifications
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

CREATE FUNCTION "vsync".grant_vsync_verifications_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".vsync_verifications TO %I', service);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "vsync" FROM PUBLIC;
