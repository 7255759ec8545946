"""Kept VSyncs are correct after the server or PostgreSQL was killed."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import grpc
import psycopg
import pytest
from vsync.v1 import cid_pb2_grpc, reconciliation_pb2_grpc
from vsync.v1 import reconciliation_pb2 as pb
from vsyncd.app import Application
from vsyncd.domains.reconciliation.admin import verify

from tests.harness.cids import ISPB, Stub, execute, failure_of, info_of
from tests.harness.clusters import Database
from tests.harness.private_servers import PrivateServer
from tests.harness.processes import server_process
from tests.harness.reconciliation import kept, model, served
from tests.harness.recorded_writes import RecordedWrites
from tests.resilience.conftest import at_baseline, describe, load, settings_of

Watch: TypeAlias = AsyncIterator[pb.WatchCidEventsResponse]
RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300))
# One statement with a hundred deltas, of other ispbs than those of the calls.
MANUAL_CHANGE = """
    INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)
    SELECT sha256(n::text::bytea), 1, lpad(n::text, 11, '0'), lpad(mod(n, 100)::text, 8, '0'), '1', 1, '12345678901'
    FROM generate_series(1000000 * %s::bigint, 1000000 * %s::bigint + 4999) AS n
"""


@pytest.mark.soak
async def test_killing_the_server_under_load_keeps_vsyncs_correct(database: Database, folder: Path) -> None:
    with server_process(database, folder / "log") as server:
        async with grpc.aio.insecure_channel(server.target, options=RECONNECT) as channel:
            writes = RecordedWrites(cid_pb2_grpc.CidServiceStub(channel), deadline=30)
            async with writes.running(16):
                await writes.progress(60)
                await server.restart(signal.SIGKILL)
                await writes.progress(60)
            truth = model(database)
            assert truth[ISPB, 1][1] > 100
            assert kept(database) == truth
            assert await served(reconciliation_pb2_grpc.ReconciliationServiceStub(channel), ISPB) == truth
    writes.check(database, allowed={"UNAVAILABLE"})


@pytest.mark.soak
async def test_killing_postgresql_repeatedly_keeps_vsyncs_correct(
    application: Application, cids: Stub, database: Database, server: PrivateServer
) -> None:
    """Kills all processes during statements, commits, folds and manual changes."""
    async with load(cids) as writes:
        for turn in range(5):
            by_hand = asyncio.create_task(asyncio.to_thread(execute, database, MANUAL_CHANGE, 1 + turn, 1 + turn))
            await writes.progress(10 * turn)  # at another point each time
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            with contextlib.suppress(psycopg.OperationalError):  # this connection may have been killed
                await by_hand
            await asyncio.to_thread(server.start)
            await writes.progress(40)
            # In one snapshot, during writes.
            found = await asyncio.to_thread(verify, settings_of(database.service_url))
            assert found.groups
            assert found.agrees
    assert kept(database) == model(database)
    await at_baseline(application)


@contextlib.asynccontextmanager
async def watch(database: Database, token: str = "") -> AsyncIterator[Watch]:
    """Watches the events of a vsyncd with this database."""
    async with (
        Application(settings_of(database.service_url)) as application,
        grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel,
    ):
        stub = reconciliation_pb2_grpc.ReconciliationServiceStub(channel)
        yield aiter(stub.WatchCidEvents(pb.WatchCidEventsRequest(resume_token=token)))


async def token_after(answers: Watch, events: int) -> str:
    """Returns the token of the message that has the last of so many events."""
    async for answer in answers:
        events -= len(answer.events)
        if events <= 0:
            break
    assert events == 0
    return answer.resume_token


@pytest.mark.parametrize("fate", ["restored", "promoted"])
async def test_a_token_is_valid_as_long_as_the_events_before_it_exist(
    server: PrivateServer, database: Database, fate: str
) -> None:
    """A copy of the server takes over: one that lacks what was committed last, or one that has it all.

    What was committed last is not the last event: that of a transaction that began later is in both.
    """
    insert = (
        "INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)"
        " SELECT sha256(n::text::bytea), 1, lpad(n::text, 11, '0'), '12345678', '1', 1, '12345678901'"
        " FROM generate_series(%s::int, %s) AS n"
    )
    async with watch(database) as answers:
        await anext(answers)
        with psycopg.connect(database.owner) as slow:
            slow.execute(insert, (1, 2))
            await asyncio.to_thread(execute, database, insert, 3, 4)
            if fate == "restored":
                copy = await asyncio.to_thread(server.replicate, "copy")
        if fate == "promoted":
            copy = await asyncio.to_thread(server.replicate, "copy")
        token = await token_after(answers, 4)
    try:
        if fate == "restored":
            copy.agent.run("rm", str(copy.data / "standby.signal"))  # it continues its timeline
        await asyncio.to_thread(copy.start)
        if fate == "promoted":
            await asyncio.to_thread(copy.execute, "SELECT pg_promote()")
        there = describe(copy, database.name)
        await asyncio.to_thread(execute, there, insert, 10, 19)
        async with watch(there, token) as answers:
            if fate == "promoted":
                await anext(answers)
                await token_after(answers, 10)
            else:
                error = await failure_of(anext(answers))
                assert (error.code(), info_of(error).reason) == (grpc.StatusCode.OUT_OF_RANGE, "EVENTS_GONE")
        assert kept(there) == model(there)
    finally:
        await asyncio.to_thread(copy.remove)
