-- name: make_partitions
SELECT "vsync".make_partitions();

-- name: partitions
-- Of those that somebody made without bounds nobody knows the time.
SELECT now(), parent, partition, begins, ends, is_detaching FROM "vsync".partitions()
WHERE begins IS NOT NULL AND ends IS NOT NULL;

-- name: left_over
-- What was detached to be dropped, when the process that did it was killed.
SELECT relname, comment
FROM pg_catalog.pg_class, pg_catalog.obj_description(oid, 'pg_class') AS comment
WHERE relnamespace = to_regnamespace('"vsync"') AND relkind = 'r' AND NOT relispartition
  AND starts_with(comment, %(mark)s);

-- name: error_verbosity
-- As it is for this session: a superuser can set it for one role, too.
SELECT current_setting('log_error_verbosity');

-- name: prune_import_chunks
-- The import itself stays: its totals, and that its id was used. In steps, so that no transaction is long.
DELETE FROM "vsync".import_chunks WHERE (import_id, number) IN (
    SELECT chunk.import_id, chunk.number
    FROM "vsync".imports AS import JOIN "vsync".import_chunks AS chunk USING (import_id)
    WHERE import.updated_at < now() - %(keep)s::interval LIMIT %(step)s);
