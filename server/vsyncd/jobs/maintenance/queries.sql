-- name: make_partitions
SELECT "vsync".make_partitions();

-- name: partitions
-- A row per registered table and partition. A table without partitions has one row. A partition that was created by hand
-- without bounds has no time range and is left out.
SELECT now(), registered.table_name, registered.retention_setting, registered.retention_days,
       p.partition, p.begins, p.ends, p.is_detaching
FROM "vsync".partitioned_tables AS registered
LEFT JOIN "vsync".partitions() AS p
    ON p.parent = registered.table_name AND p.begins IS NOT NULL AND p.ends IS NOT NULL;

-- name: detached
-- Partitions that a run detached in order to drop them, before it was killed.
SELECT relname, comment
FROM pg_catalog.pg_class, pg_catalog.obj_description(oid, 'pg_class') AS comment
WHERE relnamespace = to_regnamespace('"vsync"') AND relkind = 'r' AND NOT relispartition
  AND starts_with(comment, %(mark)s);

-- name: error_verbosity
-- The value for this session: a superuser can set it for a single role.
SELECT current_setting('log_error_verbosity');

-- name: may_prune_import_chunks
-- False if the set vsync is not migrated, or if this role does not serve it.
SELECT coalesce(has_table_privilege(to_regclass('"vsync".import_chunks'), 'DELETE'), false);

-- name: prune_import_chunks
-- In steps, to keep transactions short. The row of the import remains, with its totals and its id.
DELETE FROM "vsync".import_chunks WHERE (import_id, number) IN (
    SELECT chunk.import_id, chunk.number
    FROM "vsync".imports AS import JOIN "vsync".import_chunks AS chunk USING (import_id)
    WHERE import.updated_at < now() - %(keep)s::interval LIMIT %(step)s);
