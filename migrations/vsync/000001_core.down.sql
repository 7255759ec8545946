-- Takes everything away, and the data with it. The schema itself stays: it holds the record of the migrations.
DROP TABLE "vsync".sync_batch_records, "vsync".sync_batches, "vsync".import_chunks, "vsync".imports,
    "vsync".request_ids, "vsync".audit_logs, "vsync".cid_events, "vsync".cid_totals, "vsync".cids;
DROP FUNCTION "vsync".grant_to_service(name), "vsync".make_partitions(),
    "vsync".make_partition(text, text, text, text), "vsync".fold_cid_totals(), "vsync".refuse_truncate(),
    "vsync".cid_removed(), "vsync".cid_changed(), "vsync".cids_updated(), "vsync".cids_deleted(),
    "vsync".cids_inserted(), "vsync".refuse_change(), "vsync".uuid_v7_time(uuid), "vsync".uuid_v7(timestamptz),
    "vsync".uuid_v7_floor(timestamptz);
