-- name: instances
-- Each instance has one connection of this name to each server.
SELECT coalesce(host(client_addr), ''), backend_start FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND application_name = 'vsyncd monitor'
ORDER BY backend_start LIMIT %(limit)s;

-- name: jobs
SELECT name, coalesce(lease_until > now(), false), last_started, last_succeeded, coalesce(last_error, '')
FROM "vsync".job_runs ORDER BY name LIMIT %(limit)s;
