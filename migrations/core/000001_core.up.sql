-- The tables and functions that every domain uses: ids, the audit trail, request ids, background jobs, partitions and
-- grants.
--
-- "vsync" is the schema. With another DB_SCHEMA its name replaces "vsync" wherever that appears in double quotes. Every
-- name is qualified, because poolers and pg_restore change search_path. Text columns use COLLATE "C": keys and codes are
-- compared as bytes, and an upgrade of the operating system's collations does not corrupt an index.
--
-- `vsyncd migrate` creates the schema. To run the files by hand, first: CREATE SCHEMA "vsync".

-- ---------------------------------------------------------------------------------------------------------------
-- Ids are UUID v7 (RFC 9562, 5.7). The first 48 bits are Unix milliseconds, so ids sort by creation time and a time
-- range is an id range.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".uuid_v7_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;

COMMENT ON FUNCTION "vsync".uuid_v7_floor IS 'Returns the lowest uuid of a millisecond.';

CREATE FUNCTION "vsync".uuid_v7(at timestamptz) RETURNS uuid
LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0')
        || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid;

COMMENT ON FUNCTION "vsync".uuid_v7 IS 'Returns a new id for rows inserted by hand. The service generates its own ids.';

-- Reads the bytes instead of the text, because a CHECK constraint calls it for every row. Exact until the year 2255.
CREATE FUNCTION "vsync".uuid_v7_time(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (timestamp 'epoch' + interval '1 ms' * (
    (get_byte(uuid_send(id), 0)::bigint << 40) | (get_byte(uuid_send(id), 1)::bigint << 32)
    | (get_byte(uuid_send(id), 2)::bigint << 24) | (get_byte(uuid_send(id), 3) << 16)
    | (get_byte(uuid_send(id), 4) << 8) | get_byte(uuid_send(id), 5))) AT TIME ZONE 'UTC';

COMMENT ON FUNCTION "vsync".uuid_v7_time IS 'Returns the time in a UUID v7.';

-- ---------------------------------------------------------------------------------------------------------------
-- An xid8 has no meaning in another cluster. A row that pg_restore or logical replication wrote is recognised by its xmin,
-- which differs from the transaction_id that the row was first written with.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".is_of_this_cluster(row_xmin xid, transaction_id xid8) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN row_xmin::text::bigint = (transaction_id::text::numeric % 4294967296)::bigint;

COMMENT ON FUNCTION "vsync".is_of_this_cluster IS
    'Returns whether the transaction that a row names has written it. False after a restore, and on a subscriber.';

-- ---------------------------------------------------------------------------------------------------------------
-- Trigger functions for append-only tables and for tables that must not be truncated. Roles already prevent the
-- service from changing history; these triggers also stop the owner from doing so by mistake.
--
-- The trigger for UPDATE and DELETE of a partitioned table is FOR EACH ROW: PostgreSQL creates such a trigger in every
-- partition, and make_partition creates the one for TRUNCATE there. Otherwise a statement that names a partition would
-- bypass them.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE FUNCTION "vsync".refuse_truncate() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% cannot be truncated: delete the rows', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- partitioned_tables: the registry that maintenance, alerts, metrics and health read. A migration that creates a
-- partitioned table registers it with register_partitioned_table, which also creates its first partitions. The down
-- file calls unregister_partitioned_table.
--
-- The table is partitioned by range of one column: a uuid (UUID v7), a date or a timestamptz.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".partitioned_tables (
    table_name        text COLLATE "C" NOT NULL,
    period            text COLLATE "C" NOT NULL,
    retention_setting text COLLATE "C",
    retention_days    integer,
    CONSTRAINT partitioned_tables_pkey PRIMARY KEY (table_name),
    CONSTRAINT partitioned_tables_period CHECK (period IN ('week', 'month')),
    CONSTRAINT partitioned_tables_retention_setting CHECK (retention_setting ~ '^[A-Z][A-Z0-9_]*$'),
    CONSTRAINT partitioned_tables_retention_days CHECK (retention_days >= 1),
    CONSTRAINT partitioned_tables_one_retention CHECK (num_nonnulls(retention_setting, retention_days) = 1)
);

COMMENT ON TABLE "vsync".partitioned_tables IS 'Every partitioned table, the period of its partitions, and its retention.';
COMMENT ON COLUMN "vsync".partitioned_tables.retention_setting IS
    'The setting that has the retention in days. 0 days: rows are kept forever.';
COMMENT ON COLUMN "vsync".partitioned_tables.retention_days IS 'A fixed retention, for a table without a setting.';

-- A partition is created as a table and then attached: CREATE TABLE ... PARTITION OF would lock the parent against
-- readers.
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
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = format('"vsync".%I', parent)::regclass
                                        AND tgfoid = '"vsync".refuse_truncate'::regproc) THEN
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON "vsync".%I
                        FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate()', parent || '_truncated', partition);
    END IF;
    RETURN true;
END
$$;

-- SECURITY DEFINER: the service's role creates partitions without the right to create tables.
CREATE FUNCTION "vsync".make_partitions() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    registered record;
    begins     timestamp;
    ends       timestamp;
    made       integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('vsyncd make_partitions "vsync"', 0));
    FOR registered IN
        SELECT r.table_name, r.period, key.atttypid AS key_type,
               CASE r.period WHEN 'week' THEN interval '8 weeks' ELSE interval '3 months' END AS ahead,
               CASE r.period WHEN 'week' THEN 'IYYY_"w"IW' ELSE 'YYYY_MM' END AS suffix
        FROM "vsync".partitioned_tables AS r
        JOIN pg_class AS parent ON parent.relname = r.table_name AND parent.relnamespace = '"vsync"'::regnamespace
        JOIN pg_partitioned_table AS partitioned ON partitioned.partrelid = parent.oid
        JOIN pg_attribute AS key ON key.attrelid = parent.oid AND key.attnum = partitioned.partattrs[0]
        ORDER BY r.table_name
    LOOP
        -- The first partition is that of yesterday, because a client's clock may be slow.
        FOR begins IN SELECT generate_series(date_trunc(registered.period, localtimestamp - interval '1 day'),
                                             localtimestamp + registered.ahead, ('1 ' || registered.period)::interval)
        LOOP
            ends := begins + ('1 ' || registered.period)::interval;
            made := made + "vsync".make_partition(
                registered.table_name, to_char(begins, registered.suffix),
                CASE registered.key_type WHEN 'uuid'::regtype THEN "vsync".uuid_v7_floor(begins)::text
                    WHEN 'date'::regtype THEN begins::date::text ELSE begins::timestamptz::text END,
                CASE registered.key_type WHEN 'uuid'::regtype THEN "vsync".uuid_v7_floor(ends)::text
                    WHEN 'date'::regtype THEN ends::date::text ELSE ends::timestamptz::text END)::integer;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

COMMENT ON FUNCTION "vsync".make_partitions IS
    'Creates the partitions of the next eight weeks or three months for every registered table. Returns their number.';

CREATE FUNCTION "vsync".register_partitioned_table(
    table_name text, period text, retention_setting text DEFAULT NULL, retention_days integer DEFAULT NULL) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO "vsync".partitioned_tables VALUES (table_name, period, retention_setting, retention_days);
    SELECT "vsync".make_partitions();
$$;

COMMENT ON FUNCTION "vsync".register_partitioned_table IS 'Registers a partitioned table and creates its first partitions.';

CREATE FUNCTION "vsync".unregister_partitioned_table(table_name text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM "vsync".partitioned_tables AS r WHERE r.table_name = unregister_partitioned_table.table_name;
$$;

COMMENT ON FUNCTION "vsync".unregister_partitioned_table IS 'Removes a table from the registry. Its partitions remain.';

CREATE FUNCTION "vsync".partitions()
RETURNS TABLE (parent text, partition text, begins timestamptz, ends timestamptz, is_detaching boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    SELECT parent.relname::text, leaf.relname::text,
           CASE key.atttypid WHEN 'uuid'::regtype THEN "vsync".uuid_v7_time(bounds[1]::uuid) ELSE bounds[1]::timestamptz END,
           CASE key.atttypid WHEN 'uuid'::regtype THEN "vsync".uuid_v7_time(bounds[2]::uuid) ELSE bounds[2]::timestamptz END,
           inherits.inhdetachpending
    FROM "vsync".partitioned_tables AS registered
    JOIN pg_class AS parent ON parent.relname = registered.table_name AND parent.relnamespace = '"vsync"'::regnamespace
    JOIN pg_partitioned_table AS partitioned ON partitioned.partrelid = parent.oid
    JOIN pg_attribute AS key ON key.attrelid = parent.oid AND key.attnum = partitioned.partattrs[0]
    JOIN pg_inherits AS inherits ON inherits.inhparent = parent.oid
    JOIN pg_class AS leaf ON leaf.oid = inherits.inhrelid
    CROSS JOIN LATERAL
        regexp_match(pg_get_expr(leaf.relpartbound, leaf.oid), $re$FROM \('([^']+)'\) TO \('([^']+)'\)$re$) AS bounds
    ORDER BY 1, 3
$$;

COMMENT ON FUNCTION "vsync".partitions IS
    'Returns every partition of the registered tables with its time range. is_detaching: DETACH CONCURRENTLY was interrupted.';

-- ---------------------------------------------------------------------------------------------------------------
-- audit_logs: append-only, partitioned by month on the time in the id.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".audit_logs (
    id             uuid        NOT NULL DEFAULT "vsync".uuid_v7(now()),
    created_at     timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    correlation_id text        COLLATE "C" NOT NULL,
    recorded_by    text        COLLATE "C" NOT NULL,
    on_behalf_of   text        COLLATE "C",
    action         text        COLLATE "C" NOT NULL,
    resource       text        COLLATE "C",
    ispb           text        COLLATE "C",
    key_value      text        COLLATE "C",
    cid            bytea,
    payload        jsonb,
    recorded_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- GetAuditLog.
    CONSTRAINT audit_logs_pkey PRIMARY KEY (id),
    CONSTRAINT audit_logs_created_at_is_the_ids CHECK (created_at = "vsync".uuid_v7_time(id)),
    CONSTRAINT audit_logs_correlation_id CHECK (correlation_id ~ '^[!-~]+$' AND octet_length(correlation_id) <= 128),
    CONSTRAINT audit_logs_recorded_by CHECK (char_length(recorded_by) BETWEEN 1 AND 200),
    CONSTRAINT audit_logs_on_behalf_of CHECK (char_length(on_behalf_of) BETWEEN 1 AND 200),
    CONSTRAINT audit_logs_action CHECK (char_length(action) BETWEEN 1 AND 100),
    CONSTRAINT audit_logs_resource CHECK (char_length(resource) BETWEEN 1 AND 255),
    CONSTRAINT audit_logs_ispb CHECK (ispb ~ '^[0-9]{8}$'),
    CONSTRAINT audit_logs_key_value CHECK (char_length(key_value) BETWEEN 1 AND 77),
    CONSTRAINT audit_logs_cid_length CHECK (octet_length(cid) = 32),
    CONSTRAINT audit_logs_payload CHECK (jsonb_typeof(payload) = 'object')
) PARTITION BY RANGE (id);

COMMENT ON COLUMN "vsync".audit_logs.recorded_at IS 'The time of the insertion by the clock of the database. The service cannot set it.';
COMMENT ON COLUMN "vsync".audit_logs.recorded_by IS 'The principal whose call wrote the entry. The service sets it.';
COMMENT ON COLUMN "vsync".audit_logs.on_behalf_of IS 'The actor that the caller named, which nothing proves.';
COMMENT ON COLUMN "vsync".audit_logs.resource IS 'What the entry is about, as <collection>/<id>, for example payments/018f...';
COMMENT ON COLUMN "vsync".audit_logs.ispb IS 'The participant that the entry is about.';
COMMENT ON COLUMN "vsync".audit_logs.key_value IS 'The key of the CID that the entry is about.';

-- ListAuditLogs, newest first: one index for each way to list. Most entries have NULL in most of the partial indexes.
CREATE INDEX audit_logs_correlation_id_id_idx ON "vsync".audit_logs (correlation_id, id);
CREATE INDEX audit_logs_resource_id_idx ON "vsync".audit_logs (resource, id) WHERE resource IS NOT NULL;
CREATE INDEX audit_logs_ispb_id_idx ON "vsync".audit_logs (ispb, id) WHERE ispb IS NOT NULL;
CREATE INDEX audit_logs_key_value_id_idx ON "vsync".audit_logs (key_value, id) WHERE key_value IS NOT NULL;
CREATE INDEX audit_logs_cid_id_idx ON "vsync".audit_logs (cid, id) WHERE cid IS NOT NULL;
CREATE INDEX audit_logs_action_id_idx ON "vsync".audit_logs (action, id);
CREATE INDEX audit_logs_recorded_by_id_idx ON "vsync".audit_logs (recorded_by, id);
CREATE INDEX audit_logs_on_behalf_of_id_idx ON "vsync".audit_logs (on_behalf_of, id) WHERE on_behalf_of IS NOT NULL;

CREATE TRIGGER audit_logs_append_only BEFORE UPDATE OR DELETE ON "vsync".audit_logs
    FOR EACH ROW EXECUTE FUNCTION "vsync".refuse_change();
CREATE TRIGGER audit_logs_truncated BEFORE TRUNCATE ON "vsync".audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

-- The service chooses the ids, and with them the times. They must be times of the present.
CREATE FUNCTION "vsync".refuse_time() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the time of the audit entry, %, differs by more than 5 minutes from the clock of the database',
        NEW.created_at USING ERRCODE = 'VS001';
END
$$;

CREATE TRIGGER audit_logs_time BEFORE INSERT ON "vsync".audit_logs FOR EACH ROW
    WHEN (NEW.created_at NOT BETWEEN clock_timestamp() - interval '5 minutes' AND clock_timestamp() + interval '5 minutes')
    EXECUTE FUNCTION "vsync".refuse_time();

SELECT "vsync".register_partitioned_table('audit_logs', 'month', 'AUDIT_RETENTION_DAYS');

-- ---------------------------------------------------------------------------------------------------------------
-- request_ids: a mutation with a request id takes effect once. Partitioned by week. A unique index cannot span
-- partitions, so within ten minutes after the beginning of a week a request id is written to both weeks (see
-- keep_request in postgres/queries.sql). A lookup reads every partition.
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

COMMENT ON COLUMN "vsync".request_ids.answer IS 'The bytes from which the service builds the same answer again.';

-- The service promises 7 days (docs/api.md). The eighth allows for clocks that differ.
SELECT "vsync".register_partitioned_table('request_ids', 'week', retention_days => 8);

-- ---------------------------------------------------------------------------------------------------------------
-- job_runs: one instance at a time runs an exclusive job. It is a row and not an advisory lock, because a session's
-- lock does not survive a pooler in transaction mode. The holder renews its lease. When the lease expires, another
-- instance takes the job over.
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

COMMENT ON TABLE "vsync".job_runs IS
    'One row per job. If last_finished is before last_started and holder is NULL, the last run was interrupted.';

-- ---------------------------------------------------------------------------------------------------------------
-- Tenants. A tenanted table has a column `tenant`: the HMAC of the tenant's name, with the key in TENANT_HMAC_KEY_FILE.
-- Queries have a tenant predicate. Row-level security is a second barrier: a session of the service's role sees the rows
-- of the tenant in the setting vsync.tenant, and none without it. It restricts neither the owner nor a role with BYPASSRLS.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".tenant_key (
    is_only     boolean NOT NULL DEFAULT true,
    fingerprint bytea   NOT NULL,
    CONSTRAINT tenant_key_pkey PRIMARY KEY (is_only),
    CONSTRAINT tenant_key_is_only CHECK (is_only),
    CONSTRAINT tenant_key_fingerprint CHECK (octet_length(fingerprint) = 32)
);

COMMENT ON TABLE "vsync".tenant_key IS
    'The fingerprint of the key from which the tenants in this database were computed. Another key would not find their rows.';

-- The setting is empty after the first transaction that has set it.
CREATE FUNCTION "vsync".restrict_to_tenant(table_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE "vsync".%I ENABLE ROW LEVEL SECURITY', table_name);
    EXECUTE format('CREATE POLICY %I ON "vsync".%I USING (tenant = decode(current_setting(''vsync.tenant'', true), ''hex''))',
                   table_name || '_tenant', table_name);
END
$$;

COMMENT ON FUNCTION "vsync".restrict_to_tenant IS
    'Enables row-level security on a table with a column tenant. Rows of another tenant can be neither read nor written.';

-- ---------------------------------------------------------------------------------------------------------------
-- Grants. The owner role migrates. Each migration that creates tables or functions for the service also creates a
-- function grant_<set>_to_service(role) or grant_<set>_<what>_to_service(role), which grants access to them.
-- `vsyncd migrate` calls grant_to_service(role, sets) after `up` if the service's role is not the owner.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".grant_core_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    record_table regclass;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA "vsync" TO %I', service);
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".request_ids TO %I', service);
    EXECUTE format('GRANT SELECT, INSERT (id, created_at, correlation_id, recorded_by, on_behalf_of, action, resource, ispb,
                    key_value, cid, payload) ON "vsync".audit_logs TO %I', service);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON "vsync".job_runs TO %I', service);
    EXECUTE format('GRANT SELECT ON "vsync".partitioned_tables TO %I', service);
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".tenant_key TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".uuid_v7(timestamptz), "vsync".uuid_v7_floor(timestamptz),
                    "vsync".uuid_v7_time(uuid), "vsync".is_of_this_cluster(xid, xid8), "vsync".make_partitions(),
                    "vsync".partitions() TO %I', service);
    -- The migration tool creates these tables. They do not exist if the files were run by hand.
    FOREACH record_table IN ARRAY ARRAY[to_regclass('"vsync".schema_migrations'),
                                        to_regclass('"vsync".schema_migrations_dirty')] LOOP
        IF record_table IS NOT NULL THEN
            EXECUTE format('GRANT SELECT ON %s TO %I', record_table, service);
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION "vsync".grant_to_service(service name, sets text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    grant_function regproc;
BEGIN
    FOR grant_function IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = '"vsync"'::regnamespace AND proname LIKE 'grant\_%\_to\_service'
          AND (sets IS NULL OR proname ~ format('^grant_(%s)_(.*_)?to_service$', array_to_string(sets, '|')))
        ORDER BY proname
    LOOP
        EXECUTE format('SELECT %s($1)', grant_function) USING service;
    END LOOP;
END
$$;

COMMENT ON FUNCTION "vsync".grant_to_service IS
    'Grants a role what the service needs: in the tables of the named sets of migrations, or in those of all sets.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "vsync" FROM PUBLIC;
