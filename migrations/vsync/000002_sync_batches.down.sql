-- Drops the tables and their data.
DROP TABLE "vsync".sync_batch_records, "vsync".sync_batches;
DROP FUNCTION "vsync".grant_vsync_sync_batches_to_service(name);
