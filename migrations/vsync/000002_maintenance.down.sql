DROP FUNCTION "vsync".grant_to_service(name), "vsync".grant_maintenance_to_service(name), "vsync".partitions();
ALTER FUNCTION "vsync".grant_core_to_service(name) RENAME TO grant_to_service;
DROP TABLE "vsync".job_runs;
