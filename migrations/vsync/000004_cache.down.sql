-- Drops the tables and their data.
DROP TRIGGER cids_note_updated ON "vsync".cids;
DROP TRIGGER cids_note_removed ON "vsync".cids;
DROP TRIGGER cids_note_added ON "vsync".cids;
DROP FUNCTION "vsync".grant_vsync_cache_to_service(name), "vsync".drop_cid_changes(), "vsync".note_updated(),
    "vsync".note_removed(), "vsync".note_added(), "vsync".cache_key(text, text), "vsync".begin_cache_epoch();
DROP TABLE "vsync".cid_changes, "vsync".cache_epoch;
