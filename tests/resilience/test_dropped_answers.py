"""Answers that are lost between vsyncd and the client: a retry under the same request_id changes nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
from vsync.v1 import cid_pb2_grpc
from vsyncd.app import Application

from tests.harness.cids import rows, until
from tests.harness.clusters import Database
from tests.harness.recorded_writes import RecordedWrites, Write
from tests.harness.serving import settings_for

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


class AnswerDropper:
    """Forwards a client's data and, unless `dropping`, the server's answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.dropping = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards the data of a new connection."""
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, there_writer]
        for source, sink, answers in ((reader, there_writer, False), (there_reader, writer, True)):
            self._tasks.append(asyncio.create_task(self._forward(source, sink, answers=answers)))

    async def cut(self) -> None:
        """Resets every connection."""
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(65536):
            if not (answers and self.dropping):
                sink.write(data)


@contextlib.asynccontextmanager
async def answer_dropper(port: int) -> AsyncIterator[tuple[AnswerDropper, str]]:
    """An AnswerDropper in front of a server, and its address."""
    dropper = AnswerDropper(port)
    server = await asyncio.start_server(dropper.serve, "127.0.0.1", 0)
    try:
        yield dropper, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await dropper.cut()


async def test_a_write_whose_answer_is_lost_after_its_commit_takes_effect_once(database: Database) -> None:
    settings = settings_for(database.service_url, db_auto_migrate=False, http_listen="127.0.0.1:0")
    async with (
        Application(settings) as application,
        grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel,
    ):
        writes = RecordedWrites(cid_pb2_grpc.CidServiceStub(channel), deadline=30)
        kept = writes.creation(2)
        assert await writes.attempt(kept) is None
        for write in (writes.creation(), writes.creation(3), writes.removal(kept.cids)):
            await _send_and_drop_answer(writes, write, application.port, database)
            assert not write.acknowledged
            # Two concurrent retries.
            assert not any(await asyncio.gather(writes.attempt(write), writes.attempt(write)))
    writes.check(database, allowed={"UNAVAILABLE"})
    assert writes.errors["UNAVAILABLE"] == 3


async def _send_and_drop_answer(writes: RecordedWrites, write: Write, port: int, database: Database) -> None:
    """Sends a write, and cuts the connection when it is committed and its answer has been dropped."""
    direct = writes.stub
    async with (
        answer_dropper(port) as (between, target),
        grpc.aio.insecure_channel(target, options=OWN_CONNECTION) as channel,
    ):
        await channel.channel_ready()
        writes.stub = cid_pb2_grpc.CidServiceStub(channel)
        between.dropping = True
        attempt = asyncio.create_task(writes.attempt(write))
        committed = "SELECT FROM vsync.request_ids WHERE request_id = %s"
        await until(lambda: bool(rows(database, committed, write.request_id)))
        await between.cut()
        assert await attempt is not None
    writes.stub = direct
