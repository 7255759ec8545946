"""PostgreSQL below the cache crashes, and is promoted: nothing that was cached before is believed, and nothing is kept
that a server said which is the primary no more."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.observability.metrics import CACHE

from tests.harness.cids import Stub, a_request_id, cid_of, create, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import Agent, PrivateServer
from tests.harness.valkey import valkey_server
from tests.integration.cache.instances import believed, followed, found, server_of, when
from tests.resilience.conftest import PATIENT, caught_up, cids_of, make_database, proxy_url, settings_of

NAME = "cached"
UPDATE = "UPDATE vsync.cids SET branch = '77'"
UNHEARD = f"ALTER TABLE vsync.cids DISABLE TRIGGER cids_note_updated; {UPDATE}"


class Pair:
    """A primary and its replica, and the database that both have."""

    def __init__(self, first: PrivateServer, second: PrivateServer, database: Database) -> None:
        self.first = first
        self.second = second
        self.database = database


@pytest.fixture
def pair(agent: Agent) -> Iterator[Pair]:
    """Both running, the second as a replica."""
    first = PrivateServer.fresh(agent, "cached-1")
    first.start()
    pair = Pair(first, first.replicate("cached-2"), make_database(first, NAME))
    pair.second.start()
    yield pair
    for server in (pair.first, pair.second):
        server.remove()


@contextlib.asynccontextmanager
async def cached(pair: Pair, folder: Path, *ports: int, **given: Any) -> AsyncIterator[tuple[Application, Stub]]:
    """vsyncd over these addresses, with one record that both servers and the cache have."""
    with valkey_server(folder) as valkey:
        settings = settings_of(proxy_url(pair.database, *ports), redis_url=valkey.url, **PATIENT, **given)
        async with Application(settings) as application, cids_of(application) as cids:
            await create(cids, [1])
            await asyncio.to_thread(caught_up, pair.first, pair.second)
            await followed(application)
            await found("hit", lambda: branch(cids))
            yield application, cids


async def branch(cids: Stub) -> str:
    """As a reader sees it; empty while there is nobody to ask."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        return (await cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))).record.branch
    return ""


async def reads(cids: Stub, expected: str) -> None:
    """Wait until this is what a reader sees."""

    async def it_is() -> bool:
        return await branch(cids) == expected

    await when(it_is)


async def test_what_the_server_says_that_was_the_primary_before_is_not_kept(pair: Pair, tmp_path: Path) -> None:
    """One address, which moves; the server before goes on, and the pool's connections still lead to it."""
    async with FaultProxy(pair.first.socket) as address, cached(pair, tmp_path, address.port) as (application, cids):
        before = server_of(application)
        await asyncio.to_thread(pair.second.execute, "SELECT pg_promote()")
        address.path = pair.second.socket
        await asyncio.to_thread(pair.second.execute, UPDATE, NAME)
        elsewhere = CACHE.event_count("elsewhere")
        # Whoever follows the changes finds the new one first.
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vsyncd cache'"
        await asyncio.to_thread(pair.first.execute, end)
        await until(lambda: server_of(application) != before)
        await reads(cids, "77")
        assert CACHE.event_count("elsewhere") > elsewhere, "the pool has led to the new one from the beginning"
        await believed(application)
        await found("hit", lambda: reads(cids, "77"))


async def test_a_crash_makes_it_forget_everything(pair: Pair, tmp_path: Path) -> None:
    async with FaultProxy(pair.first.socket) as address, cached(pair, tmp_path, address.port) as (_, cids):
        await asyncio.to_thread(pair.first.execute, UNHEARD, NAME)
        await reads(cids, "0001")  # nobody was told; but on a machine that stalls a read goes past the cache
        await asyncio.to_thread(pair.first.stop, signal.SIGKILL)
        await asyncio.to_thread(pair.first.start)
        await reads(cids, "77")
        await found("hit", lambda: reads(cids, "77"))


async def test_a_transaction_that_was_prepared_before_a_crash_is_followed_when_it_is_committed(
    agent: Agent, tmp_path: Path
) -> None:
    """It outlives the crash, and what it changed is in no feed any more."""
    server = PrivateServer.fresh(agent, "cached-3")
    server.start(max_prepared_transactions="1")
    database = make_database(server, NAME)
    try:
        with valkey_server(tmp_path) as valkey:
            async with FaultProxy(server.socket) as address:
                settings = settings_of(proxy_url(database, address.port), redis_url=valkey.url, **PATIENT)
                async with Application(settings) as application, cids_of(application) as cids:
                    await create(cids, [1])
                    await believed(application)
                    before = server_of(application)
                    prepared = f"BEGIN; {UPDATE}; PREPARE TRANSACTION 'update'"
                    await asyncio.to_thread(server.execute, prepared, NAME)
                    await asyncio.to_thread(server.stop, signal.SIGKILL)
                    await asyncio.to_thread(server.start, max_prepared_transactions="1")
                    await until(lambda: server_of(application) != before)
                    await found("hit", lambda: reads(cids, "0001"))
                    await asyncio.to_thread(server.execute, "COMMIT PREPARED 'update'", NAME)
                    await reads(cids, "77")
                    await found("hit", lambda: reads(cids, "77"))
    finally:
        server.remove()


async def test_a_promotion_makes_it_forget_everything(pair: Pair, tmp_path: Path) -> None:
    async with (
        FaultProxy(pair.first.socket) as one,
        FaultProxy(pair.second.socket) as two,
        cached(pair, tmp_path, one.port, two.port) as (application, cids),
    ):
        await asyncio.to_thread(pair.first.execute, UNHEARD, NAME)
        await asyncio.to_thread(caught_up, pair.first, pair.second)
        await reads(cids, "0001")
        before = server_of(application)
        await asyncio.to_thread(pair.first.stop, signal.SIGKILL)
        await asyncio.to_thread(pair.second.execute, "SELECT pg_promote()")
        await until(lambda: server_of(application) != before)
        await reads(cids, "77")
        await found("hit", lambda: reads(cids, "77"))


async def test_a_write_leads_past_the_cache_also_when_nobody_knows_where_the_log_stands(
    pair: Pair, tmp_path: Path
) -> None:
    async with FaultProxy(pair.first.socket) as one, FaultProxy(pair.second.socket) as two:
        replica = {"db_replica_hosts": f"127.0.0.1:{two.port}"}
        async with cached(pair, tmp_path, one.port, **replica) as (_, cids):
            lost = one.cuts
            one.cut_before(b"pg_current_wal", after=b"COMMIT")
            request = pb.UpdateSyncStatusRequest(
                cids=[cid_of(1)], sync_status=pb.SYNC_STATUS_SYNCED, request_id=a_request_id()
            )
            call = cids.UpdateSyncStatus(request)
            await call
            assert one.cuts == lost + 1
            token = dict(await call.trailing_metadata() or ())["x-consistency-token"]
            metadata = (("x-consistency-token", token),)
            record = (await cids.GetCid(pb.GetCidRequest(cid=cid_of(1)), metadata=metadata)).record
            assert record.sync_status == pb.SYNC_STATUS_SYNCED
