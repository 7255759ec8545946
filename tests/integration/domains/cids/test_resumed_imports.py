"""Interrupted, resumed, stalled and concurrent imports: no record is lost or imported twice."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import psycopg
import pytest
import vsync
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import (
    Stub,
    a_record,
    a_request_id,
    cid_of,
    create,
    failure_of,
    info_of,
    messages,
    rows,
    some_records,
    stored,
    until,
)
from tests.harness.clusters import Database
from tests.integration.domains.cids.imports import FAIL, SKIP, Chunks, Counts, a_start, imported, refused, totals_of


async def test_a_repeated_chunk_has_the_same_response(cids: Stub, database: Database) -> None:
    import_id = a_request_id()
    await create(cids, [3])
    chunks: Chunks = [(1, [*some_records(5), a_record(9, cid="zz")]), (2, some_records(5, 20))]
    first = await imported(cids, chunks, import_id=import_id)
    await cids.DeleteCid(pb.DeleteCidRequest(cid=cid_of(1)))
    again = await imported(cids, chunks, import_id=import_id)
    assert again[0].number == 2
    assert again[1:] == first[1:]
    assert cid_of(1) not in stored(database)
    changed: Chunks = [(2, some_records(5, 30))]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await imported(cids, changed, import_id=import_id)
    assert info_of(caught.value).reason == "CHUNK_REUSED"


async def test_a_repeated_chunk_whose_response_has_expired_is_not_imported_again(
    cids: Stub, database: Database
) -> None:
    import_id = a_request_id()
    chunks: Chunks = [(1, some_records(5)), (2, some_records(5, 20))]
    await imported(cids, chunks, import_id=import_id)
    with psycopg.connect(database.owner) as connection:
        connection.execute("DELETE FROM vsync.import_chunks")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await imported(cids, chunks, import_id=import_id)
    assert info_of(caught.value).reason == "IMPORT_EXPIRED"
    # The import continues after the last committed chunk.
    (_, answer) = await imported(cids, [(3, some_records(5, 40))], import_id=import_id)
    assert answer.number == 3
    assert len(stored(database)) == 15


@pytest.mark.parametrize("options", [{"on_conflict": FAIL}, {"initial_sync_status": 2}])
async def test_an_import_cannot_be_resumed_with_other_options(cids: Stub, options: dict[str, int]) -> None:
    await imported(cids, [(1, [a_record(1)])], import_id=a_start().start.import_id)
    _answers, error = await refused(cids, [a_start(**options)])
    assert info_of(error).reason == "IMPORT_REUSED"


@pytest.mark.settings(stream_idle_timeout=0.2)
async def test_a_stalled_import_is_ended(application: Application, cids: Stub) -> None:
    async def started() -> AsyncIterator[pb.ImportCidsRequest]:
        yield a_start()
        await asyncio.Event().wait()

    async def answers() -> None:
        async for _answer in cids.ImportCids(started()):
            pass

    error = await failure_of(answers())
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "STREAM_STALLED")
    await until(lambda: application.calls_in_flight == 0)


@pytest.mark.settings(stream_idle_timeout=0.3)
async def test_the_client_resumes_an_interrupted_import(application: Application, database: Database) -> None:
    loop = asyncio.get_running_loop()

    def slowly() -> Iterator[pb.CidRecord]:
        for number in range(4):
            if number == 2:
                cut_off = until(lambda: application.calls_in_flight == 0)
                asyncio.run_coroutine_threadsafe(cut_off, loop).result()
            yield a_record(number)

    def work() -> list[vsync.ImportProgress]:
        with vsync.connect_sync(f"127.0.0.1:{application.port}") as client:
            return list(client.import_records(slowly(), vsync.ImportOptions(chunk_size=1, window=1)))

    *_, last = await asyncio.to_thread(work)
    assert (last.inserted, last.number) == (4, 4)
    assert last.streams > 1
    assert len(stored(database)) == 4


async def test_concurrent_streams_of_one_import_import_each_chunk_once(cids: Stub, database: Database) -> None:
    chunks: Chunks = [(n, some_records(50, n * 50)) for n in range(1, 9)]
    import_id = a_request_id()
    one, other = await asyncio.gather(*(imported(cids, chunks, import_id=import_id) for _ in range(2)))
    assert one[1:] == other[1:]
    assert totals_of(one[-1]) == Counts(400)
    assert len(stored(database)) == 400
    assert len(rows(database, "SELECT FROM vsync.audit_logs")) == 8


async def test_concurrent_imports_of_the_same_records_import_each_record_once(cids: Stub, database: Database) -> None:
    """The orders are opposite: a transaction that deadlocks is executed again."""
    forth = some_records(100)
    chunks: list[Chunks] = [[(1, forth), (2, some_records(50, 200))], [(1, forth[::-1]), (2, some_records(50, 200))]]
    answers = await asyncio.gather(*(imported(cids, one) for one in chunks for _ in range(3)))
    assert sum(totals_of(one[-1]).inserted for one in answers) == 150
    assert all(sum(totals_of(one[-1])) == 150 for one in answers)
    assert len(stored(database)) == 150
    assert (await cids.CountCids(pb.CountCidsRequest())).total == 150


@pytest.fixture
def serials() -> Iterator[int]:
    """Numbers that no earlier example has used."""
    return iter(range(10**6))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_an_import_interrupted_anywhere_and_resumed_imports_exactly_the_file(
    cids: Stub, database: Database, serials: Iterator[int], data: st.DataObject
) -> None:
    """Streams end after any message or response, and resume after the chunk number of the first response."""
    base = 1000 * next(serials)
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=8), label="sizes")
    numbers = iter(range(base, base + 1000))
    chunks: Chunks = [(at, [a_record(next(numbers)) for _ in range(size)]) for at, size in enumerate(sizes, 1)]
    import_id = a_request_id()
    cuts = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=4), label="cuts")
    for messages_sent, answers_read in cuts:
        await _cut(cids, import_id, chunks, sent=messages_sent, read=answers_read)
    call = cids.ImportCids()
    await call.write(await anext(messages(import_id, SKIP, [])))
    last = started = await _read(call)
    for number, records in chunks[started.number :]:
        await call.write(pb.ImportCidsRequest(chunk=pb.ImportChunk(number=number, records=records)))
        last = await _read(call)
        assert last.number == number
    await call.done_writing()
    assert totals_of(last) == Counts(inserted=sum(sizes))
    found = rows(
        database,
        "SELECT encode(cid, 'hex') AS cid FROM vsync.cids WHERE key_value BETWEEN %s AND %s",
        f"{base:011d}",
        f"{base + 999:011d}",
    )
    assert {row["cid"] for row in found} == {record.cid for _number, records in chunks for record in records}


async def _read(call: Any) -> pb.ImportCidsResponse:
    answer = await call.read()
    assert isinstance(answer, pb.ImportCidsResponse), await call.details()
    return answer


async def _cut(cids: Stub, import_id: str, chunks: Chunks, *, sent: int, read: int) -> None:
    """Sends so many of the next chunks, reads so many responses, and cancels the call."""
    call = cids.ImportCids()
    await call.write(await anext(messages(import_id, SKIP, [])))
    started = await _read(call)
    for number, records in chunks[started.number :][:sent]:
        await call.write(pb.ImportCidsRequest(chunk=pb.ImportChunk(number=number, records=records)))
    for _ in range(min(read, len(chunks[started.number :][:sent]))):
        await _read(call)
    call.cancel()
