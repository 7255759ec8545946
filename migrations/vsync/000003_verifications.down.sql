-- Drops the table and its data.
DROP TABLE "vsync".vsync_verifications;
DROP FUNCTION "vsync".grant_vsync_verifications_to_service(name);
