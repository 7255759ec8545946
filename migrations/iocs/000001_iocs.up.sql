-- Indicators of compromise (IOCs) of tenants.
--
-- An expired row does not exist for callers. It remains until clean_expired_iocs or the service's job deletes it.

CREATE TABLE "vsync".iocs (
    tenant     bytea       NOT NULL,
    audit_id   uuid        NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revision   bigint      NOT NULL DEFAULT 1,
    type       smallint    NOT NULL,
    confidence smallint    NOT NULL,
    value      text        COLLATE "C" NOT NULL,
    source     text        COLLATE "C" NOT NULL,
    tags       text[]      COLLATE "C" NOT NULL DEFAULT '{}',
    -- GetIoc, CheckIocs, and ListIocs without a source.
    CONSTRAINT iocs_pkey PRIMARY KEY (tenant, type, value),
    CONSTRAINT iocs_tenant CHECK (octet_length(tenant) = 32),
    CONSTRAINT iocs_expires_at CHECK (isfinite(expires_at)),
    CONSTRAINT iocs_revision CHECK (revision >= 1),
    CONSTRAINT iocs_type CHECK (type BETWEEN 1 AND 8),
    CONSTRAINT iocs_confidence CHECK (confidence BETWEEN 0 AND 100),
    CONSTRAINT iocs_value CHECK (char_length(value) BETWEEN 1 AND 2048),
    CONSTRAINT iocs_source CHECK (char_length(source) BETWEEN 1 AND 100),
    CONSTRAINT iocs_tags CHECK (
        cardinality(tags) <= 10 AND array_position(tags, NULL) IS NULL AND array_position(tags, '') IS NULL)
);

-- ListIocs with a source.
CREATE INDEX iocs_source_idx ON "vsync".iocs (tenant, source, type, value);
-- The deletion of expired rows.
CREATE INDEX iocs_expires_at_idx ON "vsync".iocs (tenant, expires_at);

COMMENT ON COLUMN "vsync".iocs.tenant IS 'The HMAC of the tenant name.';
COMMENT ON COLUMN "vsync".iocs.audit_id IS 'The audit entry of the last change, with the time of the change.';
COMMENT ON COLUMN "vsync".iocs.type IS '1 IPv4, 2 IPv6, 3 domain, 4 URL, 5 e-mail, 6 SHA-256, 7 SHA-1, 8 MD5.';
COMMENT ON COLUMN "vsync".iocs.value IS 'In canonical form.';

SELECT "vsync".restrict_to_tenant('iocs');

-- SECURITY DEFINER: a session of the service's role sees one tenant only. Reads one index entry for each tenant, and skips
-- rows that a writer has locked.
CREATE FUNCTION "vsync".delete_expired_iocs(max_rows integer) RETURNS TABLE (tenant bytea, iocs bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

COMMENT ON FUNCTION "vsync".delete_expired_iocs IS
    'Deletes up to max_rows expired IOCs, without those that are locked. Returns their number for each tenant.';

CREATE FUNCTION "vsync".clean_expired_iocs(max_rows integer DEFAULT 10000) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

COMMENT ON FUNCTION "vsync".clean_expired_iocs IS
    'Deletes up to max_rows expired IOCs of all tenants, with an audit entry. Returns their number. Repeat it until it is 0.';

-- The content of iocs in the manifest of a backup.
CREATE VIEW "vsync".content_digest_iocs AS
SELECT count(*) || ':' || coalesce(bit_xor(('x' || md5(concat_ws(E'\x1f', encode(tenant, 'hex'), type, value, confidence,
    source, array_to_string(tags, E'\x1e'), revision, audit_id, extract(epoch FROM created_at),
    extract(epoch FROM expires_at))))::bit(128))::text, '') AS digest
FROM "vsync".iocs;

CREATE FUNCTION "vsync".grant_iocs_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON "vsync".iocs TO %I', service);
    EXECUTE format('GRANT UPDATE (audit_id, created_at, expires_at, revision, confidence, source, tags)
                    ON "vsync".iocs TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".delete_expired_iocs(integer) TO %I', service);
END
$$;

REVOKE ALL ON FUNCTION "vsync".delete_expired_iocs(integer), "vsync".clean_expired_iocs(integer),
    "vsync".grant_iocs_to_service(name) FROM PUBLIC;
