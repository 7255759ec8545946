"""Partitions are made ahead, by a function of the owner that the service may call (migrations/vsync)."""

from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries


async def make_partitions(database: Database) -> int:
    """Make the partitions of the next months and weeks that are missing; how many were."""
    query = queries("vsyncd.postgres", database.schema)["make_partitions"]
    row = await database.transaction(lambda session: session.one(query))
    return int(row[0]) if row else 0
