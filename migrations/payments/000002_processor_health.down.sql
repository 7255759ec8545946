-- Drops the table and its data.
DROP TABLE "vsync".processor_health;
DROP FUNCTION "vsync".grant_payments_health_to_service(name);
