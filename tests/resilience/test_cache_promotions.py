"""Crashes and promotions of PostgreSQL: older entries are invalid, and records of a former primary are not cached."""

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
from vsyncd.observability.metrics import CACHE_EVENTS

from tests.harness.cids import Stub, a_request_id, cid_of, create, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import Agent, PrivateServer
from tests.harness.valkey import valkey_server
from tests.integration.cache.instances import cache_in_use, eventually, invalidated, looked_up, server_of
from tests.resilience.conftest import PATIENT, caught_up, cids_of, make_database, proxy_url, settings_of

NAME = "cached"
UPDATE = "UPDATE vsync.cids SET branch = '77'"
UNLOGGED_UPDATE = f"ALTER TABLE vsync.cids DISABLE TRIGGER cids_note_updated; {UPDATE}"


class Pair:
    """A primary, its replica, and their database."""

    def __init__(self, first: PrivateServer, second: PrivateServer, database: Database) -> None:
        self.first = first
        self.second = second
        self.database = database


@pytest.fixture
def pair(agent: Agent) -> Iterator[Pair]:
    """A running primary and a running replica."""
    first = PrivateServer.fresh(agent, "cached-1")
    first.start()
    pair = Pair(first, first.replicate("cached-2"), make_database(first, NAME))
    pair.second.start()
    yield pair
    for server in (pair.first, pair.second):
        server.remove()


@contextlib.asynccontextmanager
async def cached(pair: Pair, folder: Path, *ports: int, **given: Any) -> AsyncIterator[tuple[Application, Stub]]:
    """A vsyncd over these addresses, with one record on both servers and in the cache."""
    with valkey_server(folder) as valkey:
        settings = settings_of(proxy_url(pair.database, *ports), redis_url=valkey.url, **PATIENT, **given)
        async with Application(settings) as application, cids_of(application) as cids:
            await create(cids, [1])
            await asyncio.to_thread(caught_up, pair.first, pair.second)
            await invalidated(application)
            await looked_up("hit", lambda: branch(cids))
            yield application, cids


async def branch(cids: Stub) -> str:
    """Returns the branch that a reader sees, or an empty text while no server answers."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        return (await cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))).record.branch
    return ""


async def reads(cids: Stub, expected: str) -> None:
    """Waits until a reader sees this branch."""

    async def seen() -> bool:
        return await branch(cids) == expected

    await eventually(seen)


async def test_records_of_a_former_primary_are_not_cached(pair: Pair, tmp_path: Path) -> None:
    """One address moves to the new primary. The pool is still connected to the former one, which keeps running."""
    async with FaultProxy(pair.first.socket) as address, cached(pair, tmp_path, address.port) as (application, cids):
        before = server_of(application)
        await asyncio.to_thread(pair.second.execute, "SELECT pg_promote()")
        address.path = pair.second.socket
        await asyncio.to_thread(pair.second.execute, UPDATE, NAME)
        elsewhere = CACHE_EVENTS.value("elsewhere")
        # The invalidator connects to the new primary first.
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vsyncd cache'"
        await asyncio.to_thread(pair.first.execute, end)
        await until(lambda: server_of(application) != before)
        await reads(cids, "77")
        assert CACHE_EVENTS.value("elsewhere") > elsewhere, "the pool was connected to the new primary at once"
        await cache_in_use(application)
        await looked_up("hit", lambda: reads(cids, "77"))


async def test_a_crash_invalidates_every_entry(pair: Pair, tmp_path: Path) -> None:
    async with FaultProxy(pair.first.socket) as address, cached(pair, tmp_path, address.port) as (_, cids):
        await asyncio.to_thread(pair.first.execute, UNLOGGED_UPDATE, NAME)
        await reads(cids, "0001")  # the change is not in the feed; on a machine that stalls, a read bypasses the cache
        await asyncio.to_thread(pair.first.stop, signal.SIGKILL)
        await asyncio.to_thread(pair.first.start)
        await reads(cids, "77")
        await looked_up("hit", lambda: reads(cids, "77"))


async def test_a_transaction_that_was_prepared_before_a_crash_is_seen_after_its_commit(
    agent: Agent, tmp_path: Path
) -> None:
    """The transaction survives the crash, but its changes are no longer in the feed."""
    server = PrivateServer.fresh(agent, "cached-3")
    server.start(max_prepared_transactions="1")
    database = make_database(server, NAME)
    try:
        with valkey_server(tmp_path) as valkey:
            async with FaultProxy(server.socket) as address:
                settings = settings_of(proxy_url(database, address.port), redis_url=valkey.url, **PATIENT)
                async with Application(settings) as application, cids_of(application) as cids:
                    await create(cids, [1])
                    await cache_in_use(application)
                    before = server_of(application)
                    prepared = f"BEGIN; {UPDATE}; PREPARE TRANSACTION 'update'"
                    await asyncio.to_thread(server.execute, prepared, NAME)
                    await asyncio.to_thread(server.stop, signal.SIGKILL)
                    await asyncio.to_thread(server.start, max_prepared_transactions="1")
                    await until(lambda: server_of(application) != before)
                    await looked_up("hit", lambda: reads(cids, "0001"))
                    await asyncio.to_thread(server.execute, "COMMIT PREPARED 'update'", NAME)
                    await reads(cids, "77")
                    await looked_up("hit", lambda: reads(cids, "77"))
    finally:
        server.remove()


async def test_a_promotion_invalidates_every_entry(pair: Pair, tmp_path: Path) -> None:
    async with (
        FaultProxy(pair.first.socket) as one,
        FaultProxy(pair.second.socket) as two,
        cached(pair, tmp_path, one.port, two.port) as (application, cids),
    ):
        await asyncio.to_thread(pair.first.execute, UNLOGGED_UPDATE, NAME)
        await asyncio.to_thread(caught_up, pair.first, pair.second)
        await reads(cids, "0001")
        before = server_of(application)
        await asyncio.to_thread(pair.first.stop, signal.SIGKILL)
        await asyncio.to_thread(pair.second.execute, "SELECT pg_promote()")
        await until(lambda: server_of(application) != before)
        await reads(cids, "77")
        await looked_up("hit", lambda: reads(cids, "77"))


async def test_a_write_without_a_known_wal_position_still_returns_a_token_that_bypasses_the_cache(
    pair: Pair, tmp_path: Path
) -> None:
    async with FaultProxy(pair.first.socket) as one, FaultProxy(pair.second.socket) as two:
        replica = {"db_replica_hosts": f"127.0.0.1:{two.port}"}
        async with cached(pair, tmp_path, one.port, **replica) as (_, cids):
            cuts = one.cuts
            one.cut_before(b"pg_current_wal", after=b"COMMIT")
            request = pb.UpdateSyncStatusRequest(
                cids=[cid_of(1)], sync_status=pb.SYNC_STATUS_SYNCED, request_id=a_request_id()
            )
            call = cids.UpdateSyncStatus(request)
            await call
            assert one.cuts == cuts + 1
            token = dict(await call.trailing_metadata() or ())["x-consistency-token"]
            metadata = (("x-consistency-token", token),)
            record = (await cids.GetCid(pb.GetCidRequest(cid=cid_of(1)), metadata=metadata)).record
            assert record.sync_status == pb.SYNC_STATUS_SYNCED
