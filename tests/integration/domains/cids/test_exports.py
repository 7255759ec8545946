"""ExportCids: one snapshot, exactly the matching records, and a bounded duration."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import TupleRow
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import cid_pb2_grpc
from vsyncd.app import Application
from vsyncd.domains.cids import exports
from vsyncd.postgres.queries import Parameters, Query
from vsyncd.postgres.snapshots import Snapshot, SnapshotReader

from tests.harness.catalog import COUNT, Row, fill, filters, matching
from tests.harness.cids import Stub, create, failure_of, info_of, rows, status_of, unpacked, until, waiting_for_locks
from tests.harness.clusters import Database
from tests.harness.logs import captured_logs


@pytest.fixture
def catalog(database: Database) -> list[Row]:
    """Records of every kind."""
    return fill(database)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a few records fill many messages."""
    monkeypatch.setattr(exports, "RECORDS_PER_MESSAGE", 25)
    monkeypatch.setattr(exports, "CIDS_PER_MESSAGE", 60)


def exports_open(database: Database) -> int:
    """Returns the number of connections of exports."""
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'vsyncd export'"
    return len(rows(database, query))


def cids_in(answer: pb.ExportCidsResponse) -> list[str]:
    """Returns the cids of a message, packed or in records."""
    packed = [answer.cids[at : at + 32].hex() for at in range(0, len(answer.cids), 32)]
    return packed or [record.cid for record in answer.records]


async def exported(cids: Stub, request: pb.ExportCidsRequest) -> list[pb.ExportCidsResponse]:
    """Returns all messages of an export."""
    return [answer async for answer in cids.ExportCids(request)]


@pytest.mark.usefixtures("small_batches")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=filters(), cids_only=st.booleans(), data=st.data())
async def test_an_export_returns_exactly_the_matching_records_also_when_resumed_anywhere(
    cids: Stub, catalog: list[Row], wanted: pb.CidFilter, cids_only: bool, data: st.DataObject
) -> None:
    expected = matching(catalog, wanted)
    answers = await exported(cids, pb.ExportCidsRequest(filter=wanted, cids_only=cids_only))
    assert [cid for answer in answers for cid in cids_in(answer)] == expected
    assert not any(answer.resumed for answer in answers)
    assert len({answer.snapshot_time.ToNanoseconds() for answer in answers}) == 1

    at = data.draw(st.integers(0, len(answers) - 1))
    token = answers[at].resume_token
    rest = await exported(cids, pb.ExportCidsRequest(filter=wanted, cids_only=cids_only, resume_token=token))
    received = [cid for answer in (*answers[: at + 1], *rest) for cid in cids_in(answer)]
    assert received == expected
    assert all(answer.resumed is bool(token) for answer in rest)


@pytest.mark.both_versions
@pytest.mark.usefixtures("small_batches")
async def test_an_export_does_not_contain_later_changes(cids: Stub, catalog: list[Row]) -> None:
    call = cids.ExportCids(pb.ExportCidsRequest(cids_only=True))
    received: list[str] = []
    async for answer in call:
        if answer.cids and not received:
            await create(cids, range(1000, 1050))
            await cids.BatchDeleteCids(pb.BatchDeleteCidsRequest(cids=[row.cid for row in catalog[-20:]]))
        received += cids_in(answer)
    assert received == [row.cid for row in catalog]
    assert len(await exported(cids, pb.ExportCidsRequest())) > 1


async def test_exported_records_are_complete(cids: Stub) -> None:
    created = await create(cids, range(3))
    [_first, answer] = await exported(cids, pb.ExportCidsRequest())
    assert list(answer.records) == created


async def test_an_empty_export_is_one_message(cids: Stub) -> None:
    [answer] = await exported(cids, pb.ExportCidsRequest(cids_only=True))
    assert not answer.cids
    assert answer.snapshot_time.seconds > 0


@pytest.fixture
async def narrow(application: Application) -> AsyncIterator[Stub]:
    """A client with a small flow-control window: if it does not read, the server soon has to wait."""
    options = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}", options=options) as channel:
        yield cid_pb2_grpc.CidServiceStub(channel)


async def unread_export(cids: Stub) -> "grpc.aio.UnaryStreamCall[Any, pb.ExportCidsResponse]":
    """Starts an export that is larger than all buffers, and reads its first message only."""
    for first in range(0, 5000, 1000):
        await create(cids, range(first, first + 1000))
    call = cids.ExportCids(pb.ExportCidsRequest())
    assert isinstance(await call.read(), pb.ExportCidsResponse)
    return call


async def test_a_cancelled_export_leaves_no_connection_behind(narrow: Stub, database: Database) -> None:
    call = await unread_export(narrow)
    await until(lambda: exports_open(database) == 1)
    with captured_logs() as log:
        call.cancel()
        await until(lambda: exports_open(database) == 0)
        await until(lambda: bool(log.named("call cancelled")))
    assert log.named("internal error") == [], "a cancelled call is not a defect"


async def test_cancelling_an_export_cancels_its_query(cids: Stub, database: Database) -> None:
    with psycopg.connect(database.owner) as other:
        other.execute("LOCK TABLE vsync.cids IN ACCESS EXCLUSIVE MODE")
        call = cids.ExportCids(pb.ExportCidsRequest())
        await until(lambda: waiting_for_locks(database) == 1)
        call.cancel()
        await until(lambda: exports_open(database) == 0)


@pytest.mark.settings(export_stall_timeout=0.3)
async def test_an_export_ends_if_its_client_does_not_read(narrow: Stub, database: Database) -> None:
    call = await unread_export(narrow)
    await until(lambda: exports_open(database) == 0)

    async def read_on() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    error = await failure_of(read_on())
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info_of(error).reason == "STREAM_STALLED"


@pytest.mark.settings(db_statement_timeout=1, export_max_duration=900)
async def test_a_snapshot_outlives_the_longest_pause_of_its_client(application: Application) -> None:
    async def show(snapshot: Snapshot) -> Any:
        return await snapshot.one(Query("show", b"SHOW idle_in_transaction_session_timeout"))

    snapshots = SnapshotReader(application.database, "exports", max_concurrent=1, max_duration=900)
    assert await snapshots.read("export", show) == ("16min",)


@pytest.mark.settings(export_max_duration=2)
@pytest.mark.usefixtures("catalog", "small_batches")
async def test_an_export_ends_at_its_maximum_duration_and_its_token_continues_it(
    cids: Stub, catalog: list[Row]
) -> None:
    received: list[str] = []
    token = ""

    async def export() -> None:
        nonlocal token
        async for answer in cids.ExportCids(pb.ExportCidsRequest(resume_token=token)):
            received.extend(cids_in(answer))
            token = answer.resume_token

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Snapshot, "stream", _slow_stream)
        error = await failure_of(export())
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "EXPORT_TIMEOUT")
    assert 0 < len(received) < COUNT
    await export()
    assert received == [row.cid for row in catalog]


async def _slow_stream(
    snapshot: Snapshot, query: Query, parameters: Parameters, *, block_rows: int
) -> AsyncGenerator[list[TupleRow]]:
    found = await snapshot.all(query, parameters)
    for number, delay in enumerate((0, 0, 2.1)):  # the last block exceeds the maximum duration
        await asyncio.sleep(delay)
        yield found[number * block_rows : (number + 1) * block_rows]


@pytest.mark.settings(export_max_duration=0.4)
async def test_a_block_that_is_not_found_in_time_ends_the_export(cids: Stub, database: Database) -> None:
    """The statement times out: the export cannot check its duration while it waits for rows."""
    await create(cids, [1])
    with psycopg.connect(database.owner) as other:
        other.execute("LOCK TABLE vsync.cids IN ACCESS EXCLUSIVE MODE")
        error = await failure_of(exported(cids, pb.ExportCidsRequest()))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: exports_open(database) == 0)


@pytest.mark.settings(export_max_streams=2)
async def test_exports_above_the_limit_are_refused_until_one_has_ended(cids: Stub, database: Database) -> None:
    await create(cids, [1])
    with psycopg.connect(database.owner) as other:
        other.execute("LOCK TABLE vsync.cids IN ACCESS EXCLUSIVE MODE")
        calls = [cids.ExportCids(pb.ExportCidsRequest()) for _ in range(2)]
        await until(lambda: waiting_for_locks(database) == 2)
        error = await failure_of(exported(cids, pb.ExportCidsRequest()))
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert unpacked(status_of(error), error_details_pb2.RetryInfo()).retry_delay.seconds > 0
        calls[0].cancel()
        await until(lambda: exports_open(database) == 1)
        other.rollback()
    assert len(await exported(cids, pb.ExportCidsRequest())) == 2
    assert len([answer async for answer in calls[1]]) == 2
