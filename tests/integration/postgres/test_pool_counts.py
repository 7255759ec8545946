"""The pool's counters: each request counts once, however often it retries."""

import asyncio
import contextlib

import pytest
from psycopg.conninfo import conninfo_to_dict
from vsyncd.postgres.connection import Connector
from vsyncd.postgres.error_mapping import DatabaseUnavailable, PoolExhausted
from vsyncd.postgres.pool import Pool

from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.ports import free_port
from tests.harness.serving import settings_for


async def test_a_request_that_waits_for_a_slow_connection_counts_once_and_not_as_an_error(database: Database) -> None:
    address = conninfo_to_dict(database.service_url)
    async with (
        FaultProxy(f"{address['host']}/.s.PGSQL.{address['port']}") as proxy,
        contextlib.AsyncExitStack() as stack,
    ):
        proxy.delay = 0.15  # per message: connecting takes several attempts to check out
        url = f"postgresql://{address['user']}:{address['password']}@127.0.0.1:{proxy.port}/{address['dbname']}"
        settings = settings_for(f"{url}?sslmode=disable", db_min_connections=0, db_max_connections=2)
        pool = Pool(settings, Connector(settings, settings.database_hosts), name="slow")
        await pool.open()
        stack.push_async_callback(pool.close)
        leave, held = asyncio.Event(), asyncio.Semaphore(0)

        async def hold() -> None:
            connection = await pool.acquire(60)
            held.release()
            await leave.wait()
            await pool.release(connection)

        holders = [asyncio.create_task(hold()) for _ in range(2)]
        for _ in holders:
            await held.acquire()
        counted = pool.get_stats()
        assert (counted["requests_num"], counted["requests_queued"], counted["requests_errors"]) == (2, 2, 0)
        assert counted["requests_wait_ms"] > 0
        with pytest.raises(PoolExhausted):
            await pool.acquire(0.01)
        leave.set()
        await asyncio.gather(*holders)
        counted = pool.get_stats()
        assert (counted["requests_num"], counted["requests_queued"], counted["requests_errors"]) == (3, 3, 1)


async def test_callers_that_wait_behind_those_who_connect_report_the_database() -> None:
    """A pool without any connection is not exhausted."""
    url = f"postgresql://user:password@127.0.0.1:{free_port()}/name?sslmode=disable"
    settings = settings_for(url, db_min_connections=0, db_max_connections=1)
    pool = Pool(settings, Connector(settings, settings.database_hosts), name="unreachable")
    await pool.open()
    connecting = asyncio.create_task(pool.acquire(60))
    await asyncio.sleep(0)  # it takes the only slot
    with pytest.raises(DatabaseUnavailable):
        await pool.acquire(0.05)
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    await pool.close()


@pytest.mark.parametrize("setting", ["db_connection_max_idle_time", "db_connection_max_lifetime"])
async def test_closed_connections_are_counted_by_reason(database: Database, setting: str) -> None:
    settings = settings_for(database.service_url, db_min_connections=0, **{setting: 0.05})
    pool = Pool(settings, Connector(settings, settings.database_hosts), name="closing")
    reason = setting.replace("db_connection_max", "closed_by")
    await pool.open()
    async with asyncio.timeout(60):
        while not (stats := pool.get_stats())[reason]:
            await pool.release(await pool.acquire(60))
            await asyncio.sleep(0.2)
    await pool.close()
    assert {"closed_by_idle_time", "closed_by_lifetime"} - {name for name, count in stats.items() if not count} == {
        reason
    }
