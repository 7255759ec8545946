-- The last report about each processor. Redis has a copy for 30 s.

CREATE TABLE "vsync".processor_health (
    reported_at          timestamptz NOT NULL,
    revision             bigint      NOT NULL DEFAULT 1,
    min_response_time_ms integer     NOT NULL,
    healthy              boolean     NOT NULL,
    processor            text        COLLATE "C" NOT NULL,
    CONSTRAINT processor_health_pkey PRIMARY KEY (processor),
    CONSTRAINT processor_health_processor CHECK (processor ~ '^[a-z0-9_-]+$' AND octet_length(processor) <= 50),
    CONSTRAINT processor_health_min_response_time_ms CHECK (min_response_time_ms BETWEEN 0 AND 3600000),
    CONSTRAINT processor_health_reported_at CHECK (isfinite(reported_at)),
    CONSTRAINT processor_health_revision CHECK (revision >= 1)
) WITH (fillfactor = 50);

COMMENT ON COLUMN "vsync".processor_health.revision IS 'The number of reports. Redis does not replace a newer report by an older one.';

CREATE FUNCTION "vsync".grant_payments_health_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON "vsync".processor_health TO %I', service);
END
$$;

REVOKE ALL ON FUNCTION "vsync".grant_payments_health_to_service(name) FROM PUBLIC;
