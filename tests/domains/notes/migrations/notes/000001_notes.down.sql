-- Drops the table and its data.
DROP TABLE "vsync".notes;
DROP FUNCTION "vsync".grant_notes_to_service(name);
