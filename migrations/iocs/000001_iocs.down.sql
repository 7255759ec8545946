-- Drops the table and its data.
DROP VIEW "vsync".content_digest_iocs;
DROP FUNCTION "vsync".clean_expired_iocs(integer), "vsync".delete_expired_iocs(integer), "vsync".grant_iocs_to_service(name);
DROP TABLE "vsync".iocs;
