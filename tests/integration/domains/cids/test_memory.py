"""The memory of a stream does not grow with its length."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil
import pytest
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import cid_pb2_grpc

from tests.harness.cids import a_record, a_request_id
from tests.harness.clusters import Database
from tests.harness.processes import ServerProcess, server_process

MEBIBYTE = 1 << 20
CHUNK, WARM, CHUNKS = 500, 10, 80


def resident(server: ServerProcess) -> int:
    """Returns the resident memory of the server process in bytes."""
    assert server._process is not None
    return int(psutil.Process(server._process.pid).memory_info().rss)


async def _requests() -> AsyncIterator[pb.ImportCidsRequest]:
    yield pb.ImportCidsRequest(start=pb.ImportStart(import_id=a_request_id(), on_conflict=pb.ON_CONFLICT_FAIL))
    for number in range(1, CHUNKS + 1):
        records = [a_record(n) for n in range(number * CHUNK, (number + 1) * CHUNK)]
        yield pb.ImportCidsRequest(chunk=pb.ImportChunk(number=number, records=records))


@pytest.mark.soak
async def test_imports_and_exports_use_constant_memory(database: Database, tmp_path: Path) -> None:
    with server_process(database, tmp_path / "log") as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            cids: cid_pb2_grpc.CidServiceAsyncStub = cid_pb2_grpc.CidServiceStub(channel)
            warm = 0
            async for answer in cids.ImportCids(_requests()):
                if answer.number == WARM:
                    warm = resident(server)
            assert answer.totals.inserted == CHUNK * CHUNKS
            assert resident(server) - warm < 16 * MEBIBYTE

            before, received = resident(server), 0
            async for exported in cids.ExportCids(pb.ExportCidsRequest()):
                received += len(exported.records)
            assert received == CHUNK * CHUNKS
            assert resident(server) - before < 32 * MEBIBYTE
