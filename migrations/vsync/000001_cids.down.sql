-- Drops the tables and their data.
SELECT "vsync".unregister_partitioned_table('cid_events');
DROP VIEW "vsync".cids_readable, "vsync".cid_sums, "vsync".cid_deltas, "vsync".last_fold;
DROP TABLE "vsync".import_chunks, "vsync".imports, "vsync".cid_events, "vsync".cid_folds, "vsync".cid_totals,
    "vsync".cids;
DROP FUNCTION "vsync".grant_vsync_cids_to_service(name), "vsync".rebuild_cid_totals(), "vsync".fold_cid_totals(), "vsync".cid_removed(), "vsync".cid_changed(),
    "vsync".cids_updated(), "vsync".cids_deleted(), "vsync".cids_inserted(),
    "vsync".audit_change_by_hand(text, text, bigint),
    "vsync".cid_bits(bytea);
