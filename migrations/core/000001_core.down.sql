-- Drops the tables and their data. The schema remains: it has the migration tool's own tables.
DROP TABLE "vsync".audit_logs, "vsync".request_ids, "vsync".job_runs, "vsync".partitioned_tables,
    "vsync".tenant_key;
DROP FUNCTION "vsync".grant_to_service(name, text[]), "vsync".grant_core_to_service(name), "vsync".restrict_to_tenant(text), "vsync".partitions(),
    "vsync".unregister_partitioned_table(text), "vsync".register_partitioned_table(text, text, text, integer),
    "vsync".make_partitions(), "vsync".make_partition(text, text, text, text), "vsync".refuse_time(),
    "vsync".refuse_truncate(), "vsync".refuse_change(), "vsync".is_of_this_cluster(xid, xid8), "vsync".uuid_v7_time(uuid), "vsync".uuid_v7(timestamptz),
    "vsync".uuid_v7_floor(timestamptz);
