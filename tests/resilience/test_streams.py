"""Streams with dedicated connections end and free their slots if the server hangs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import psutil
import psycopg
import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import Stub, execute, failure_of, info_of
from tests.harness.clusters import Database
from tests.harness.private_servers import PrivateServer
from tests.harness.recorded_writes import retry_delay
from tests.resilience.conftest import at_baseline, first_good_answer, patient

# More than the flow-control windows of gRPC hold, so the stream is active until it is read.
FILL = """
    INSERT INTO vsync.cids (key_type, account_type, cid, key_value, ispb, account_number, tax_id)
    SELECT 1, 1, sha256(n::text::bytea), lpad(n::text, 11, '0'), '12345678', '1', lpad(n::text, 11, '0')
    FROM generate_series(1, 20000) AS n
"""


@pytest.mark.settings(export_max_streams=1)
async def test_an_export_from_a_frozen_server_ends_and_frees_its_slot(
    application: Application, cids: Stub, database: Database, server: PrivateServer
) -> None:
    await asyncio.to_thread(execute, database, FILL)
    export: AsyncIterator[pb.ExportCidsResponse]

    async def begin() -> None:
        nonlocal export
        export = aiter(cids.ExportCids(pb.ExportCidsRequest()))
        for _ in range(2):
            await anext(export)

    await first_good_answer(begin)  # a paused machine looks like a hanging server
    with server.frozen():
        error = await failure_of(read_to_the_end(export))
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
        assert retry_delay(error)
        # Not OVERLOADED: the slot is free.
        error = await failure_of(read_to_the_end(aiter(cids.ExportCids(pb.ExportCidsRequest()))))
        assert info_of(error).reason == "CIRCUIT_OPEN"
    await at_baseline(application)
    assert await read_to_the_end(aiter(cids.ExportCids(pb.ExportCidsRequest()))) == 20_000


async def read_to_the_end(export: AsyncIterator[pb.ExportCidsResponse]) -> int:
    """Returns the number of received records."""
    return sum([len(answer.records) async for answer in export])


@patient
async def test_a_stream_ends_if_the_server_does_not_end_its_statement_in_time(
    application: Application,
) -> None:
    """One backend hangs, which the monitor does not detect."""
    async with application.database.connect("test", statement_timeout=0.1) as connection:
        connection.response_timeout = 0.5
        backend = psutil.Process(connection.info.backend_pid)
        backend.suspend()
        try:
            with pytest.raises(psycopg.OperationalError):
                await asyncio.wait_for(connection.execute("SELECT 1"), 60)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                backend.resume()
    assert application.database.primary.breaker.closed
