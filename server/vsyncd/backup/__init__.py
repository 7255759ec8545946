"""Creates, verifies, restores and removes backups: a pg_dump and a manifest of the same snapshot.

A standalone library on top of psycopg, PostgreSQL's client programs and vsyncd.migrate. All calls block; the service
runs them in threads. vsyncd.jobs.backups builds the configuration from the settings.
"""
