"""Connecting to a server with several addresses, and to a replica."""

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from vsyncd.config.endpoints import HostPort
from vsyncd.postgres.connection import Connector

from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.serving import settings_for


async def test_the_address_of_the_last_successful_connection_is_tried_first(database: Database) -> None:
    """Otherwise each new connection would wait for DB_CONNECT_TIMEOUT again."""
    address = conninfo_to_dict(database.service_url)
    async with FaultProxy("/nowhere") as hole, FaultProxy(f"{address['host']}/.s.PGSQL.{address['port']}") as proxy:
        hole.hang()
        addresses = f"127.0.0.1:{hole.port},127.0.0.1:{proxy.port}"
        url = f"postgresql://{address['user']}:{address['password']}@{addresses}/{address['dbname']}?sslmode=disable"
        settings = settings_for(url, db_connect_timeout=2)
        connector = Connector(settings, settings.database_hosts)
        for _ in range(2):
            connection = await connector.connect("test")
            await connection.close()
            assert hole.accepted == 1
        # If it fails, the others are tried again.
        await proxy.refuse()
        with pytest.raises(psycopg.OperationalError):
            await connector.connect("test")
        assert hole.accepted == 2


async def test_each_host_name_keeps_its_own_hostaddr_after_the_order_changed(database: Database) -> None:
    address = conninfo_to_dict(database.service_url)
    async with (
        FaultProxy("/nowhere") as unreachable,
        FaultProxy(f"{address['host']}/.s.PGSQL.{address['port']}") as proxy,
    ):
        names = f"one.invalid:{unreachable.port},two.invalid:{proxy.port}"
        url = f"postgresql://{address['user']}:{address['password']}@{names}/{address['dbname']}?sslmode=disable"
        settings = settings_for(f"{url}&hostaddr=127.0.0.2,127.0.0.1", db_connect_timeout=20)
        connector = Connector(settings, settings.database_hosts)
        for _ in range(2):
            connection = await connector.connect("test")
            assert (connection.info.host, connection.info.hostaddr) == ("two.invalid", "127.0.0.1")
            await connection.close()


async def test_a_replica_is_reached_at_its_own_address_and_may_be_read_only(database: Database) -> None:
    address = conninfo_to_dict(database.service_url)
    async with FaultProxy("/nowhere") as primary, FaultProxy(f"{address['host']}/.s.PGSQL.{address['port']}") as proxy:
        url = f"postgresql://{address['user']}:{address['password']}@one.invalid:{primary.port}/{address['dbname']}"
        further = "sslmode=disable&hostaddr=127.0.0.2&target_session_attrs=read-write"
        settings = settings_for(f"{url}?{further}&options=-cdefault_transaction_read_only%3Don", db_connect_timeout=20)
        connector = Connector(settings, [HostPort("127.0.0.1", proxy.port)], replica=True)
        connection = await connector.connect("test")
        assert (connection.info.host, primary.accepted) == ("127.0.0.1", 0)
        await connection.close()
