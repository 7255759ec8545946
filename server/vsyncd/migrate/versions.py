"""Which versions a database has, and whether they are enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import AsyncConnection

from vsyncd.migrate.connections import connected
from vsyncd.migrate.store import Store


def current_versions(conninfo: str, schema: str) -> dict[str, int]:
    """The last version of each set that the database has. Raises DatabaseRefused."""
    with connected(conninfo) as connection:
        return Store(schema).versions(connection)


async def fetch_current_versions(connection: AsyncConnection[Any], schema: str) -> dict[str, int]:
    """The same over a connection of the service. It takes what psycopg raises as it is."""
    return await Store(schema).fetch_versions(connection)


def behind(current: Mapping[str, int], latest: Mapping[str, int]) -> dict[str, int]:
    """The sets that the database lacks or has an older version of, and the version they should have.

    A newer version is no matter: migrations expand first and contract later, so that what runs can read it.
    """
    return {set_name: version for set_name, version in latest.items() if current.get(set_name, 0) < version}
