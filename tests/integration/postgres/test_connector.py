"""Connections to a server of several addresses."""

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from vsyncd.postgres.connection import Connector

from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.serving import settings_for


async def test_after_a_black_hole_the_address_that_let_us_in_is_tried_first(database: Database) -> None:
    """Otherwise each new connection would wait for DB_CONNECT_TIMEOUT again."""
    place = conninfo_to_dict(database.service_url)
    async with FaultProxy("/nowhere") as hole, FaultProxy(f"{place['host']}/.s.PGSQL.{place['port']}") as proxy:
        hole.hang()
        addresses = f"127.0.0.1:{hole.port},127.0.0.1:{proxy.port}"
        url = f"postgresql://{place['user']}:{place['password']}@{addresses}/{place['dbname']}?sslmode=disable"
        settings = settings_for(url, db_connect_timeout=2)
        connector = Connector.of(settings, settings.database_hosts)
        for _ in range(2):
            connection = await connector.open("test")
            await connection.close()
            assert hole.accepted == 1
        # When that one goes, the others have their turn.
        await proxy.refuse()
        with pytest.raises(psycopg.OperationalError):
            await connector.open("test")
        assert hole.accepted == 2
