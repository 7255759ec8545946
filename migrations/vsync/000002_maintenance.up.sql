-- Work that comes round by itself: who does it, and what there is to be done.

-- ---------------------------------------------------------------------------------------------------------------
-- job_runs: of all instances over this database one runs a job at a time. A row, not an advisory lock: a session's lock
-- does not survive a pooler in transaction mode. Whoever holds a job renews its lease; when the lease runs out, the
-- holder is gone, and the next one takes over.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".job_runs (
    name           text        COLLATE "C" NOT NULL,
    holder         text        COLLATE "C",
    lease_until    timestamptz,
    last_started   timestamptz NOT NULL,
    last_finished  timestamptz,
    last_succeeded timestamptz,
    last_error     text,
    CONSTRAINT job_runs_pkey PRIMARY KEY (name),
    CONSTRAINT job_runs_name CHECK (char_length(name) BETWEEN 1 AND 100),
    CONSTRAINT job_runs_lease CHECK ((holder IS NULL) = (lease_until IS NULL)),
    CONSTRAINT job_runs_last_error CHECK (char_length(last_error) <= 1000)
) WITH (fillfactor = 50);

COMMENT ON TABLE "vsync".job_runs IS 'One row a job. last_finished before last_started without a holder: the run was cut off';

-- ---------------------------------------------------------------------------------------------------------------
-- Partitions, as times: what make_partitions has made, for alerts and for retention.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".partitions()
RETURNS TABLE (parent text, partition text, begins timestamptz, ends timestamptz, is_detaching boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    SELECT top.relname::text, leaf.relname::text,
           CASE WHEN of.kind = 'uuid' THEN "vsync".uuid_v7_time(of.bounds[1]::uuid) ELSE of.bounds[1]::timestamptz END,
           CASE WHEN of.kind = 'uuid' THEN "vsync".uuid_v7_time(of.bounds[2]::uuid) ELSE of.bounds[2]::timestamptz END,
           inherits.inhdetachpending
    FROM pg_partitioned_table AS partitioned
    JOIN pg_class AS top ON top.oid = partitioned.partrelid
    JOIN pg_inherits AS inherits ON inherits.inhparent = top.oid
    JOIN pg_class AS leaf ON leaf.oid = inherits.inhrelid
    JOIN pg_attribute AS key ON key.attrelid = top.oid AND key.attnum = partitioned.partattrs[0]
    CROSS JOIN LATERAL (
        SELECT format_type(key.atttypid, NULL) AS kind,
               regexp_match(pg_get_expr(leaf.relpartbound, leaf.oid), $re$FROM \('([^']+)'\) TO \('([^']+)'\)$re$) AS bounds
    ) AS of
    WHERE top.relnamespace = '"vsync"'::regnamespace
    ORDER BY 1, 3
$$;

COMMENT ON FUNCTION "vsync".partitions IS
    'Every partition, and the time that its rows are of. is_detaching: a DETACH CONCURRENTLY was cut off';

-- ---------------------------------------------------------------------------------------------------------------
-- Rights of the service's role. Each migration that has something to give makes a function grant_<what>_to_service(name)
-- of its own; grant_to_service calls them all, and none has to be written anew for the next one.
-- ---------------------------------------------------------------------------------------------------------------

ALTER FUNCTION "vsync".grant_to_service(name) RENAME TO grant_core_to_service;

CREATE FUNCTION "vsync".grant_maintenance_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON "vsync".job_runs TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".partitions() TO %I', service);
END
$$;

CREATE FUNCTION "vsync".grant_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part regproc;
BEGIN
    FOR part IN SELECT oid FROM pg_proc WHERE pronamespace = '"vsync"'::regnamespace
                AND proname LIKE 'grant\_%\_to\_service' ORDER BY proname LOOP
        EXECUTE format('SELECT %s($1)', part) USING service;
    END LOOP;
END
$$;

COMMENT ON FUNCTION "vsync".grant_to_service IS 'Gives a role what the service needs, by every grant_..._to_service there is';

REVOKE ALL ON FUNCTION "vsync".grant_to_service(name), "vsync".grant_maintenance_to_service(name), "vsync".partitions()
    FROM PUBLIC;
