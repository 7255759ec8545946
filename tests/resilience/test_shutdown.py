"""A shutdown ends readiness first, lets running calls finish, ends streams resumably, and respects the grace period."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
import vsync
from grpc_health.v1 import health_pb2 as standard
from grpc_health.v1 import health_pb2_grpc as standard_grpc
from prometheus_client import REGISTRY
from vsync.health.v1 import health_pb2, health_pb2_grpc
from vsync.importing import ImportOptions
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import cid_pb2_grpc
from vsyncd.app import Application

from tests.harness.cids import Stub, a_record, a_request_id, messages, some_records, stored, until, waiting_for_locks
from tests.harness.clusters import Database
from tests.harness.recorded_writes import code_and_reason, retry_delay
from tests.harness.serving import settings_for
from tests.harness.stopwatch import now

GOING = "UNAVAILABLE SHUTTING_DOWN"
# What is not read waits at the server.
SMALL_WINDOW = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
SERVING, NOT_SERVING = standard.HealthCheckResponse.SERVING, standard.HealthCheckResponse.NOT_SERVING


class Served:
    """A running vsyncd and a client of it."""

    def __init__(self, application: Application, channel: grpc.aio.Channel) -> None:
        self.application = application
        self.cids: Stub = cid_pb2_grpc.CidServiceStub(channel)
        self.treasury = health_pb2_grpc.HealthStub(channel)
        self._standard: Any = standard_grpc.HealthStub(channel)

    async def status(self, name: str) -> int:
        """Returns the status in grpc.health.v1."""
        return int((await self._standard.Check(standard.HealthCheckRequest(service=name))).status)

    async def turns(self, status: int) -> None:
        """Waits for a readiness status."""
        watch = self._standard.Watch(standard.HealthCheckRequest(service="readiness"))
        while (await watch.read()).status != status:
            pass
        watch.cancel()


@contextlib.asynccontextmanager
async def served(database: Database, **overrides: Any) -> AsyncIterator[Served]:
    """Runs vsyncd with the test's database. The test may stop it earlier."""
    settings = settings_for(database.service_url, db_auto_migrate=False, http_listen="127.0.0.1:0", **overrides)
    application = Application(settings)
    await application.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}", options=SMALL_WINDOW) as channel:
            server = Served(application, channel)
            await server.turns(SERVING)
            yield server
    finally:
        await application.stop()


@contextlib.contextmanager
def locked(database: Database) -> Iterator[None]:
    """Locks cids for writes and reads."""
    with psycopg.connect(database.owner) as connection:
        connection.execute("LOCK TABLE vsync.cids IN ACCESS EXCLUSIVE MODE")
        yield


async def ending(stream: Any) -> str:
    """Returns the error that ends a stream."""
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return code_and_reason(error) if retry_delay(error) else f"{code_and_reason(error)}, without RetryInfo"
    return "OK"


async def numbers(stream: Any) -> list[int]:
    """Reads the first two answers of an import: to its start, and to its first chunk."""
    return [(await stream.read()).number for _ in range(2)]


async def outcome(call: Any) -> str:
    """Returns the error of a unary call."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return code_and_reason(error)
    return "OK"


async def test_running_calls_finish_and_new_ones_go_elsewhere(database: Database) -> None:
    async with served(database) as server:
        with locked(database):
            calls = [
                server.cids.CreateCid(pb.CreateCidRequest(record=record, request_id=a_request_id()), timeout=30)
                for record in some_records(200)
            ]
            await until(lambda: server.application.calls_in_flight == 200)
            begin = now()
            stopping = asyncio.create_task(server.application.stop())
            await server.turns(NOT_SERVING)
            assert await server.status("liveness") == SERVING
            new = server.cids.CountCids(pb.CountCidsRequest())
            assert await outcome(new) == GOING
            assert (await server.treasury.GetLiveness(health_pb2.LivenessRequest())).status == health_pb2.HEALTHY
            assert not stopping.done()
        assert [await outcome(call) for call in calls] == ["OK"] * 200
        await stopping
        assert now() - begin < 15, "the grace, which is 20 s, is not waited for"
    assert len(stored(database)) == 200


async def test_streams_end_with_a_position_to_resume_from(database: Database) -> None:
    async with served(database) as server:
        watch = server.treasury.WatchHealth(health_pb2.HealthRequest())
        await watch.read()
        waiting = server.cids.ImportCids(messages_and_silence([(1, some_records(10))]))
        assert await numbers(waiting) == [0, 1]
        with locked(database):
            writing = server.cids.ImportCids(messages_and_silence([(1, some_records(10, 100))]))
            export = server.cids.ExportCids(pb.ExportCidsRequest())
            await until(lambda: waiting_for_locks(database) == 2)
            stopping = asyncio.create_task(server.application.stop())
            async with asyncio.timeout(60):
                assert [await ending(stream) for stream in (watch, waiting, export)] == [GOING] * 3
            assert not stopping.done()
        # The chunk that was being written is there, and acknowledged.
        assert await numbers(writing) == [0, 1]
        assert await ending(writing) == GOING
        await stopping
    assert len(stored(database)) == 20


async def test_a_reader_that_does_not_read_does_not_delay_the_shutdown(database: Database) -> None:
    records = 20_000
    with psycopg.connect(database.admin) as connection:
        connection.execute(
            "INSERT INTO vsync.cids (key_type, account_type, cid, key_value, ispb, account_number, tax_id)"
            " SELECT 1, 1, sha256(n::text::bytea), lpad(n::text, 11, '0'), '12345678', '1', lpad(n::text, 11, '0')"
            " FROM generate_series(1, %s) AS n",
            [records],
        )
    async with served(database) as server:
        export = server.cids.ExportCids(pb.ExportCidsRequest())
        await export.read()
        await stalled()
        begin = now()
        await server.application.stop()
        assert now() - begin < 10  # of 20
        # The word for the end stands behind what was not taken, and may not have come.
        assert (await ending(export)).split(",")[0] in {GOING, "CANCELLED", "UNAVAILABLE"}


async def stalled() -> None:
    """Waits until no export makes progress, because the buffers to its reader are full."""
    seen, turns = -1.0, 0
    while turns < 20:
        sent = REGISTRY.get_sample_value("vsyncd_export_records_total", {"form": "records"}) or 0.0
        turns = turns + 1 if sent == seen else 0
        seen = sent
        await asyncio.sleep(0.02)


async def test_an_import_continues_on_the_next_server(database: Database) -> None:
    records = some_records(3000)
    async with served(database) as server:
        port = server.application.port
        async with vsync.connect(f"127.0.0.1:{port}") as client:
            options = ImportOptions(chunk_size=100)
            importing = client.import_records(records, options)
            streams = [(await anext(importing)).streams for _ in range(3)]
            await server.application.stop()
            async with served(database, grpc_listen=f"127.0.0.1:{port}"):
                streams += [progress.streams async for progress in importing]
    assert (streams[0], streams[-1]) == (1, 2)
    assert len(stored(database)) == len(records)


async def test_calls_are_served_while_load_balancers_react(database: Database) -> None:
    async with served(database, shutdown_delay=3, shutdown_grace=10) as server:
        stopping = asyncio.create_task(server.application.stop())
        await server.turns(NOT_SERVING)
        assert await outcome(server.cids.CountCids(pb.CountCidsRequest())) == "OK"
        watch = server.treasury.WatchHealth(health_pb2.HealthRequest())
        assert await watch.read() is not grpc.aio.EOF
        assert await ending(watch) == GOING
        await stopping


async def test_calls_that_do_not_end_are_cancelled_within_the_grace_period(database: Database) -> None:
    async with served(database, shutdown_grace=1.5) as server:
        with locked(database):
            call = server.cids.BatchCreateCids(
                pb.BatchCreateCidsRequest(records=[a_record(1)], request_id=str(uuid4())), timeout=60
            )
            await until(lambda: waiting_for_locks(database) == 1)
            begin = now()
            await server.application.stop()
            assert now() - begin < 30, "the call would last for 60 s"
            assert await outcome(call) in {"CANCELLED", "UNAVAILABLE"}
    assert stored(database) == {}


@pytest.mark.parametrize("grace", [0, 60])
async def test_an_idle_server_stops_at_once(database: Database, grace: float) -> None:
    async with served(database, shutdown_grace=grace) as server:
        begin = now()
        await server.application.stop()
        assert now() - begin < 30, "an idle server waits for no grace"


async def messages_and_silence(chunks: list[tuple[int, list[pb.CidRecord]]]) -> AsyncIterator[pb.ImportCidsRequest]:
    """Begins an import without finishing it."""
    async for message in messages(str(uuid4()), pb.ON_CONFLICT_SKIP, chunks):
        yield message
    await asyncio.Event().wait()
