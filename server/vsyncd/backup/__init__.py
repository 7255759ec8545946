"""Backups: a dump and a manifest of the same snapshot, made, verified, restored and removed.

It stands alone: it knows psycopg, PostgreSQL's client programs and the migration engine's record, and nothing of the
rest of the server. It blocks; the service runs it in a thread. vsyncd/backups.py puts it together from the settings.
"""
