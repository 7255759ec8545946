"""Exports: one snapshot, exactly what matches, and nobody can hold one open for ever."""

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
from vsyncd.domains.cids import export_repository
from vsyncd.domains.cids.records import CidFilter
from vsyncd.domains.cids.repository import LEAST_ID

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
    """So that a few records make many messages."""
    monkeypatch.setattr(export_repository, "RECORD_ROWS", 25)
    monkeypatch.setattr(export_repository, "CID_ROWS", 60)


def exports_open(database: Database) -> int:
    """Connections that exports hold."""
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'vsyncd export'"
    return len(rows(database, query))


def cids_in(answer: pb.ExportCidsResponse) -> list[str]:
    """The cids of a message, however they are sent."""
    packed = [answer.cids[at : at + 32].hex() for at in range(0, len(answer.cids), 32)]
    return packed or [record.cid for record in answer.records]


async def exported(cids: Stub, request: pb.ExportCidsRequest) -> list[pb.ExportCidsResponse]:
    """Every message."""
    return [answer async for answer in cids.ExportCids(request)]


@pytest.mark.usefixtures("small_batches")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=filters(), cids_only=st.booleans(), data=st.data())
async def test_an_export_is_exactly_what_matches_also_when_it_is_resumed_anywhere(
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
async def test_what_comes_during_an_export_is_not_in_it(cids: Stub, catalog: list[Row]) -> None:
    call = cids.ExportCids(pb.ExportCidsRequest(cids_only=True))
    received: list[str] = []
    async for answer in call:
        if answer.cids and not received:
            await create(cids, range(1000, 1050))
            await cids.BatchDeleteCids(pb.BatchDeleteCidsRequest(cids=[row.cid for row in catalog[-20:]]))
        received += cids_in(answer)
    assert received == [row.cid for row in catalog]
    assert len(await exported(cids, pb.ExportCidsRequest())) > 1


async def test_exported_records_are_whole(cids: Stub) -> None:
    created = await create(cids, range(3))
    [_first, answer] = await exported(cids, pb.ExportCidsRequest())
    assert list(answer.records) == created


async def test_an_export_of_nothing_is_one_message(cids: Stub) -> None:
    [answer] = await exported(cids, pb.ExportCidsRequest(cids_only=True))
    assert not answer.cids
    assert answer.snapshot_time.seconds > 0


@pytest.fixture
async def narrow(application: Application) -> AsyncIterator[Stub]:
    """A client that takes little before it reads: with a small window the server soon has to wait."""
    options = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}", options=options) as channel:
        yield cid_pb2_grpc.CidServiceStub(channel)


async def an_export_that_nobody_reads(cids: Stub) -> "grpc.aio.UnaryStreamCall[Any, pb.ExportCidsResponse]":
    """More than fits on the way, of which the first message is read."""
    for first in range(0, 5000, 1000):
        await create(cids, range(first, first + 1000))
    call = cids.ExportCids(pb.ExportCidsRequest())
    assert isinstance(await call.read(), pb.ExportCidsResponse)
    return call


async def test_a_cancelled_export_leaves_no_connection_behind(narrow: Stub, database: Database) -> None:
    call = await an_export_that_nobody_reads(narrow)
    await until(lambda: exports_open(database) == 1)
    with captured_logs() as log:
        call.cancel()
        await until(lambda: exports_open(database) == 0)
        await until(lambda: bool(log.named("call cancelled")))
    assert log.named("internal error") == [], "that a caller goes is no defect"


async def test_an_export_that_is_cancelled_while_it_waits_cancels_its_query(cids: Stub, database: Database) -> None:
    with psycopg.connect(database.owner) as someone:
        someone.execute("LOCK TABLE vsync.cids IN ACCESS EXCLUSIVE MODE")
        call = cids.ExportCids(pb.ExportCidsRequest())
        await until(lambda: waiting_for_locks(database) == 1)
        call.cancel()
        await until(lambda: exports_open(database) == 0)


@pytest.mark.settings(export_stall_timeout=0.3)
async def test_a_reader_that_takes_nothing_is_cut_off(narrow: Stub, database: Database) -> None:
    call = await an_export_that_nobody_reads(narrow)
    await until(lambda: exports_open(database) == 0)

    async def read_on() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    error = await failure_of(read_on())
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info_of(error).reason == "STREAM_STALLED"


@pytest.mark.settings(db_statement_timeout=1, export_max_duration=900)
async def test_the_server_lets_an_export_rest_as_long_as_its_reader_may(application: Application) -> None:
    exports = export_repository.ExportRepository(application.database, most=1)
    async with exports.open(CidFilter(), after=LEAST_ID, cids_only=True, max_duration=900) as export:
        shown = await export._cursor.connection.execute("SHOW idle_in_transaction_session_timeout")
        assert await shown.fetchone() == ("16min",)


@pytest.mark.settings(export_max_duration=2)
@pytest.mark.usefixtures("catalog", "small_batches")
async def test_an_export_that_takes_too_long_ends_and_its_token_goes_on(cids: Stub, catalog: list[Row]) -> None:
    received: list[str] = []
    token = ""

    async def export() -> None:
        nonlocal token
        async for answer in cids.ExportCids(pb.ExportCidsRequest(resume_token=token)):
            received.extend(cids_in(answer))
            token = answer.resume_token

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_repository.Export, "batches", _slowly)
        error = await failure_of(export())
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "EXPORT_TIMEOUT")
    assert 0 < len(received) < COUNT
    await export()
    assert received == [row.cid for row in catalog]


async def _slowly(export: export_repository.Export) -> AsyncGenerator[list[TupleRow], None]:
    for delay in (0, 0, 2.1):  # the last is past the export's time
        await asyncio.sleep(delay)
        yield await export._cursor.fetchmany(25)


@pytest.mark.settings(export_max_duration=0.4)
async def test_a_batch_that_takes_too_long_to_find_ends_the_export(cids: Stub, database: Database) -> None:
    """It is the statement that is ended: nothing else can be while it runs."""
    await create(cids, [1])
    with psycopg.connect(database.owner) as someone:
        someone.execute("LOCK TABLE vsync.cids IN ACCESS EXCLUSIVE MODE")
        error = await failure_of(exported(cids, pb.ExportCidsRequest()))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: exports_open(database) == 0)


@pytest.mark.settings(export_max_streams=2)
async def test_past_the_limit_exports_are_turned_away_until_one_has_ended(cids: Stub, database: Database) -> None:
    await create(cids, [1])
    with psycopg.connect(database.owner) as someone:
        someone.execute("LOCK TABLE vsync.cids IN ACCESS EXCLUSIVE MODE")
        calls = [cids.ExportCids(pb.ExportCidsRequest()) for _ in range(2)]
        await until(lambda: waiting_for_locks(database) == 2)
        error = await failure_of(exported(cids, pb.ExportCidsRequest()))
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert unpacked(status_of(error), error_details_pb2.RetryInfo()).retry_delay.seconds > 0
        calls[0].cancel()
        await until(lambda: exports_open(database) == 1)
        someone.rollback()
    assert len(await exported(cids, pb.ExportCidsRequest())) == 2
    assert len([answer async for answer in calls[1]]) == 2
