"""Connections to a server of several addresses, and to a replica."""

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from vsyncd.config.endpoints import HostPort
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
        connector = Connector(settings, settings.database_hosts)
        for _ in range(2):
            connection = await connector.connect("test")
            await connection.close()
            assert hole.accepted == 1
        # When that one goes, the others have their turn.
        await proxy.refuse()
        with pytest.raises(psycopg.OperationalError):
            await connector.connect("test")
        assert hole.accepted == 2


async def test_each_name_is_tried_at_its_own_address_after_another_one_let_us_in(database: Database) -> None:
    place = conninfo_to_dict(database.service_url)
    async with FaultProxy("/nowhere") as gone, FaultProxy(f"{place['host']}/.s.PGSQL.{place['port']}") as proxy:
        names = f"one.invalid:{gone.port},two.invalid:{proxy.port}"
        url = f"postgresql://{place['user']}:{place['password']}@{names}/{place['dbname']}?sslmode=disable"
        settings = settings_for(f"{url}&hostaddr=127.0.0.2,127.0.0.1", db_connect_timeout=20)
        connector = Connector(settings, settings.database_hosts)
        for _ in range(2):
            connection = await connector.connect("test")
            assert (connection.info.host, connection.info.hostaddr) == ("two.invalid", "127.0.0.1")
            await connection.close()


async def test_a_replica_is_found_where_it_is_and_need_not_take_writes(database: Database) -> None:
    place = conninfo_to_dict(database.service_url)
    async with FaultProxy("/nowhere") as primary, FaultProxy(f"{place['host']}/.s.PGSQL.{place['port']}") as proxy:
        url = f"postgresql://{place['user']}:{place['password']}@one.invalid:{primary.port}/{place['dbname']}"
        further = "sslmode=disable&hostaddr=127.0.0.2&target_session_attrs=read-write"
        settings = settings_for(f"{url}?{further}&options=-cdefault_transaction_read_only%3Don", db_connect_timeout=20)
        connector = Connector(settings, [HostPort("127.0.0.1", proxy.port)], replica=True)
        connection = await connector.connect("test")
        assert (connection.info.host, primary.accepted) == ("127.0.0.1", 0)
        await connection.close()
