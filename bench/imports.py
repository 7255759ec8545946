"""Compares ImportCids of 200,000 records in chunks of 1,000 with COPY FROM a file on the server.

Both write the same rows to the same table with the same indexes, constraints and triggers, each time in a new database.
COPY reads PostgreSQL's own format. vsyncd reads protobuf over gRPC, validates every field, and writes audit entries and
answers.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import grpc
import psutil
import psycopg
import uvloop
from psycopg import sql
from vsync.v1 import cid_pb2 as pb

from bench.entries import record
from bench.report import Figure, rate, ratio
from bench.servers import Service, database, postgres, vsyncd

RECORDS = 200_000
CHUNK = 1_000
ROUNDS = 5
_IN_FLIGHT = 4
_IMPORT = "/vsync.v1.CidService/ImportCids"


def run() -> list[Figure]:
    """Returns the rates of alternating runs, their ratio, and the growth of vsyncd's memory within a stream."""
    ours: list[float] = []
    theirs: list[float] = []
    growth: list[float] = []
    with postgres() as admin, tempfile.TemporaryDirectory(prefix="vsyncd-bench-") as folder:
        Path(folder).chmod(0o755)  # under root another user runs the server
        file = Path(folder) / "rows.bin"
        chunks = chunks_of_records()
        for round_ in range(ROUNDS + 1):
            with database(admin, "ours") as conninfo, vsyncd(conninfo) as service:
                seconds, grown = uvloop.run(send(service, chunks))
                if not file.exists():
                    _copy_out(conninfo, file)
            with database(admin, "theirs") as conninfo:
                theirs_seconds = _copy_in(conninfo, file)
            if round_:  # the first round warms up
                ours.append(RECORDS / seconds)
                theirs.append(RECORDS / theirs_seconds)
                growth.append(grown / 2**20)
    worst = max(growth)
    return [
        rate("import", "ImportCids", ours, "rows/s"),
        rate("import", "COPY FROM a file", theirs, "rows/s"),
        ratio("import", "ImportCids / COPY FROM a file", ours, theirs, at_least=0.6),
        Figure(
            bench="import",
            name="vsyncd's growth from the 20th chunk to the last",
            value=worst,
            unit="MiB",
            target="at most 8",
            is_met=worst <= 8,
            samples=growth,
        ),
    ]


def chunks_of_records(first: int = 0, count: int = RECORDS // CHUNK) -> list[bytes]:
    """Returns the chunks of an import without its start message. Each import has its own records."""
    return [
        pb.ImportCidsRequest(
            chunk=pb.ImportChunk(
                number=number + 1, records=[record((first + number) * CHUNK + index) for index in range(CHUNK)]
            )
        ).SerializeToString()
        for number in range(count)
    ]


async def send(service: Service, chunks: list[bytes], records: int = RECORDS) -> tuple[float, int]:
    """Imports the chunks.

    Returns the seconds, and the growth of the service in bytes between the 20th and the last chunk.
    """
    start = pb.ImportStart(import_id=str(uuid4()), on_conflict=pb.ON_CONFLICT_SKIP)
    places = asyncio.Semaphore(_IN_FLIGHT)

    async def requests() -> AsyncIterator[bytes]:
        yield pb.ImportCidsRequest(start=start).SerializeToString()
        for chunk in chunks:
            await places.acquire()
            yield chunk

    process = psutil.Process(service.process.pid)
    early = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        await channel.channel_ready()
        begin = time.perf_counter()
        call: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(_IMPORT)
        async for data in call(requests()):
            answer = pb.ImportCidsResponse.FromString(data)
            if answer.number:
                places.release()
            if answer.number == 20:
                early = process.memory_info().rss
        seconds = time.perf_counter() - begin
    if answer.totals.inserted != records:
        raise RuntimeError(f"{answer.totals.inserted} of {records} records were inserted")
    return seconds, process.memory_info().rss - early


_COLUMNS = sql.SQL(
    "id, created_at, updated_at, synced_at, key_type, account_type, sync_status, cid, key_value, ispb, branch,"
    " account_number, tax_id, dict_request_id"
)


def _copy_out(conninfo: str, file: Path) -> None:
    statement = sql.SQL("COPY vsync.cids ({}) TO STDOUT (FORMAT BINARY)").format(_COLUMNS)
    with (
        psycopg.connect(conninfo) as connection,
        connection.cursor() as cursor,
        file.open("wb") as out,
        cursor.copy(statement) as copy,
    ):
        for data in copy:
            out.write(data)
    os.chmod(file, 0o644)  # noqa: PTH101  the server reads it


def _copy_in(conninfo: str, file: Path) -> float:
    statement = sql.SQL("COPY vsync.cids ({}) FROM {} (FORMAT BINARY)").format(_COLUMNS, sql.Literal(str(file)))
    with psycopg.connect(conninfo, autocommit=True) as connection:
        begin = time.perf_counter()
        connection.execute(statement)
        return time.perf_counter() - begin
