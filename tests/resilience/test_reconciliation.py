"""What is kept is the truth also when what keeps it is killed; and long reads go to a replica."""

import signal
from pathlib import Path

import grpc
from vsync.v1 import cid_pb2_grpc, reconciliation_pb2_grpc

from tests.harness.cids import ISPB
from tests.harness.clusters import Database
from tests.harness.processes import server_process
from tests.harness.reconciliation import kept, model, served
from tests.harness.recorded_writes import RecordedWrites

RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300))


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
