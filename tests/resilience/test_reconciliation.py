"""What is kept is the truth also when what keeps it is killed."""

import asyncio
import contextlib
import signal
from pathlib import Path

import grpc
import psycopg
import pytest
from vsync.v1 import cid_pb2_grpc, reconciliation_pb2_grpc
from vsyncd.app import Application
from vsyncd.reconciliation.upkeep import verify

from tests.harness.cids import ISPB, Stub, execute
from tests.harness.clusters import Database
from tests.harness.private_servers import PrivateServer
from tests.harness.processes import server_process
from tests.harness.reconciliation import kept, model, served
from tests.harness.recorded_writes import RecordedWrites
from tests.resilience.conftest import at_baseline, load, settings_of

RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300))
# One statement with a hundred deltas, of other ispbs than the callers'.
BY_HAND = """
    INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)
    SELECT sha256(n::text::bytea), 1, lpad(n::text, 11, '0'), lpad(mod(n, 100)::text, 8, '0'), '1', 1, '12345678901'
    FROM generate_series(1000000 * %s::bigint, 1000000 * %s::bigint + 4999) AS n
"""


async def test_a_server_that_is_killed_under_load_keeps_vsyncs_right(database: Database, folder: Path) -> None:
    with server_process(database, folder / "log") as server:
        async with grpc.aio.insecure_channel(server.target, options=RECONNECT) as channel:
            writes = RecordedWrites(cid_pb2_grpc.CidServiceStub(channel))
            async with writes.by(16):
                await writes.progress(60)
                await server.restart(signal.SIGKILL)
                await writes.progress(60)
            truth = model(database)
            assert truth[ISPB, 1][1] > 100
            assert kept(database) == truth
            assert await served(reconciliation_pb2_grpc.ReconciliationServiceStub(channel), ISPB) == truth
    writes.check(database, allowed={"UNAVAILABLE"})


@pytest.mark.soak
async def test_a_postgresql_that_is_killed_again_and_again_keeps_vsyncs_right(
    application: Application, cids: Stub, database: Database, server: PrivateServer
) -> None:
    """The postmaster and everyone below it, at whatever they are: statements, commits, folds, a change by hand."""
    async with load(cids) as writes:
        for turn in range(5):
            by_hand = asyncio.create_task(asyncio.to_thread(execute, database, BY_HAND, 1 + turn, 1 + turn))
            await writes.progress(10 * turn)  # each time somewhere else
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            with contextlib.suppress(psycopg.OperationalError):  # it may have been killed too
                await by_hand
            await asyncio.to_thread(server.start)
            await writes.progress(40)
            # Of one snapshot, while writes go on.
            groups = await asyncio.to_thread(verify, settings_of(database.service_url))
            assert groups
            assert all(group.agrees for group in groups)
    assert kept(database) == model(database)
    await at_baseline(application)
