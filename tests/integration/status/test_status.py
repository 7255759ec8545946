"""GetStatus with work of the day, without a database, and while the database does not answer."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from psycopg.conninfo import make_conninfo
from vsync.health.v1 import health_pb2
from vsync.v1 import cid_pb2, cid_pb2_grpc, reconciliation_pb2, sync_batch_pb2, sync_batch_pb2_grpc
from vsync.v1 import status_pb2 as pb
from vsync.v1.reconciliation_pb2_grpc import ReconciliationServiceStub
from vsync.v1.status_pb2_grpc import StatusServiceStub
from vsync.version import __version__
from vsyncd.app import Application
from vsyncd.domains.registry import load_settings
from vsyncd.migrate import latest_versions

from tests.harness.cids import ISPB, a_record, cid_of, failure_of
from tests.harness.clusters import Database

SECTIONS = ["instances", "jobs", "migrations", "imports", "batches", "vsyncs"]
CORRELATION_ID = "0123456789abcdef0123456789abcdef"
OK, NOK = reconciliation_pb2.DIRECTORY_RESULT_OK, reconciliation_pb2.DIRECTORY_RESULT_NOK


async def status_of(channel: grpc.aio.Channel) -> pb.ServerStatus:
    return (await StatusServiceStub(channel).GetStatus(pb.GetStatusRequest())).status


async def becomes(channel: grpc.aio.Channel, condition: Callable[[pb.ServerStatus], bool]) -> pb.ServerStatus:
    """Asks until the status fulfils the condition."""
    async with asyncio.timeout(60):
        while not condition(status := await status_of(channel)):  # noqa: ASYNC110  what is awaited is the server's
            await asyncio.sleep(0.05)
    return status


async def work(channel: grpc.aio.Channel, day: str) -> sync_batch_pb2.SyncBatch:
    """Creates five CIDs and a batch of them. One is reported SYNCED, two FAILED, one is leased and one is open."""
    cids: cid_pb2_grpc.CidServiceAsyncStub = cid_pb2_grpc.CidServiceStub(channel)
    await cids.BatchCreateCids(cid_pb2.BatchCreateCidsRequest(records=[a_record(number) for number in range(5)]))
    stub: sync_batch_pb2_grpc.SyncBatchServiceAsyncStub = sync_batch_pb2_grpc.SyncBatchServiceStub(channel)
    create = sync_batch_pb2.CreateSyncBatchRequest(batch_date=day, ispb=ISPB)
    batch = (await stub.CreateSyncBatch(create)).batch
    await stub.StartSyncBatch(sync_batch_pb2.StartSyncBatchRequest(id=batch.id))
    claim = sync_batch_pb2.ClaimSyncRecordsRequest(
        batch_id=batch.id, worker_id="w", max_records=4, lease_duration=Duration(seconds=600)
    )
    claimed = await stub.ClaimSyncRecords(claim)
    errors = ["", "KEY_NOT_FOUND: 00000000001 of Maria", "Maria 00000000001 is unknown"]
    results = [
        sync_batch_pb2.SyncResult(
            cid=record.cid,
            sync_status=cid_pb2.SYNC_STATUS_FAILED if error else cid_pb2.SYNC_STATUS_SYNCED,
            error=error,
        )
        for record, error in zip(claimed.records, errors, strict=False)
    ]
    await stub.ReportSyncRecords(
        sync_batch_pb2.ReportSyncRecordsRequest(claim_token=claimed.claim_token, results=results)
    )
    return batch


async def verify(channel: grpc.aio.Channel, ispb: str, result: reconciliation_pb2.DirectoryResult.ValueType) -> None:
    verification = reconciliation_pb2.VsyncVerification(
        ispb=ispb, key_type=cid_pb2.KEY_TYPE_CPF, submitted_vsync="00" * 32, directory_result=result
    )
    request = reconciliation_pb2.RecordVsyncVerificationRequest(verification=verification)
    await ReconciliationServiceStub(channel).RecordVsyncVerification(request)


async def test_the_status_of_a_working_day(channel: grpc.aio.Channel) -> None:
    day = datetime.now(ZoneInfo("America/Sao_Paulo")).date().isoformat()
    batch = await work(channel, day)
    for result in (OK, NOK, NOK, OK):
        await verify(channel, ISPB, result)
    for result in (NOK, OK, NOK, NOK):
        await verify(channel, "99999999", result)
    request = cid_pb2.GetCidRequest(cid=cid_of(999))
    await failure_of(
        cid_pb2_grpc.CidServiceStub(channel).GetCid(request, metadata=[("x-correlation-id", CORRELATION_ID)])
    )
    status = await becomes(
        channel,
        lambda seen: bool(seen.partitioned_tables) and len(seen.vsyncs) == 2 and seen.batches[0].failed_records == 2,
    )

    assert (status.version, status.health.status) == (__version__, health_pb2.HEALTHY)
    (primary,) = status.health.dependencies
    assert primary.config.metadata["circuit_breaker"] == "closed"
    assert primary.config.pool_info.max_connections == 25
    assert not status.unavailable
    assert not status.truncated

    methods = {method.method: method for method in status.calls.methods}
    get = methods["vsync.v1.CidService/GetCid"]
    assert (get.errors >= 1, get.server_errors, get.streaming, get.p99_ms > 0) == (True, 0, False, True)
    assert sum(minute.calls for minute in status.calls.minutes) == sum(method.calls for method in methods.values())
    failed = next(call for call in status.failures if call.correlation_id == CORRELATION_ID)
    assert (failed.method, failed.code, failed.reason) == (get.method, "NOT_FOUND", "CID_NOT_FOUND")

    (found,) = status.batches
    assert (found.id, found.ispb, found.batch_date) == (batch.id, ISPB, day)
    assert found.status == sync_batch_pb2.SYNC_BATCH_STATUS_RUNNING
    counts = (found.total_records, found.synced_records, found.failed_records, found.leased_records)
    assert counts == (5, 1, 2, 1)
    assert found.records_per_second > 0
    assert found.estimated_completion.seconds >= found.started_at.seconds
    assert found.oldest_lease_expires_at.seconds > found.started_at.seconds + 500
    assert [(each.reason, each.records) for each in found.failure_reasons] == [("KEY_NOT_FOUND", 1), ("OTHER", 1)]

    ours, other = status.vsyncs
    assert (ours.ispb, ours.count, ours.verdict) == (ISPB, 5, OK)
    assert ours.verdict_since == ours.verified_at
    vsyncs = await ReconciliationServiceStub(channel).ListVsyncs(reconciliation_pb2.ListVsyncsRequest(ispb=ISPB))
    assert ours.vsync == vsyncs.vsyncs[0].vsync
    assert (other.ispb, other.count, other.verdict, other.vsync) == ("99999999", 0, NOK, "00" * 32)
    answers = await ReconciliationServiceStub(channel).ListVsyncVerifications(
        reconciliation_pb2.ListVsyncVerificationsRequest(ispb="99999999", key_type=cid_pb2.KEY_TYPE_CPF)
    )
    newest, first_nok, *_ = [each.created_at for each in answers.verifications]
    assert (other.verified_at, other.verdict_since) == (newest, first_nok)

    assert {each.set: each.version for each in status.migration_sets} == latest_versions()
    assert {each.table for each in status.partitioned_tables} >= {"audit_logs", "request_ids", "cid_events"}
    jobs = {job.name: job for job in status.jobs}
    assert (jobs["maintain"].exclusive, jobs["fold totals"].exclusive) == (True, False)
    assert jobs["fold totals"].interval_ms == 1000
    assert len(status.instances) == 1
    text = str(status)
    assert not [private for private in ("00000000001", "Maria", cid_of(1)) if private in text]


async def test_without_a_database_each_section_has_a_reason(folder: Path) -> None:
    settings = load_settings(
        database_url=make_conninfo(host=str(folder), user="nobody", dbname="nothing"),
        db_min_connections=0,
        health_check_timeout=10,
        grpc_listen="127.0.0.1:0",
        http_listen="127.0.0.1:0",
        shutdown_grace=1,
    )
    async with (
        Application(settings) as application,
        grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel,
    ):
        status = await status_of(channel)
    assert status.health.status == health_pb2.UNHEALTHY
    assert "connection refused" in status.health.message
    assert [each.section for each in status.unavailable] == SECTIONS
    assert {each.reason for each in status.unavailable} <= {"DATABASE_UNAVAILABLE", "CIRCUIT_OPEN", "QUERY_TIMEOUT"}
    assert "fold totals" in {job.name for job in status.jobs}


async def test_the_answer_does_not_wait_for_a_locked_table(channel: grpc.aio.Channel, database: Database) -> None:
    await becomes(channel, lambda seen: not seen.unavailable)
    with psycopg.connect(database.admin) as connection:
        connection.execute("LOCK TABLE vsync.imports IN ACCESS EXCLUSIVE MODE")
        status = await becomes(channel, lambda seen: bool(seen.unavailable))
    reasons = {each.section: each.reason for each in status.unavailable}
    assert (reasons["imports"], reasons["vsyncs"]) == ("QUERY_TIMEOUT", "QUERY_TIMEOUT")
    assert status.health.status == health_pb2.HEALTHY
    await becomes(channel, lambda seen: not seen.unavailable)


@pytest.mark.settings(domains="audit")
async def test_the_sections_are_those_of_the_served_domains(channel: grpc.aio.Channel) -> None:
    status = await becomes(channel, lambda seen: not seen.unavailable)
    assert {each.set for each in status.migration_sets if each.required_version} == {"core"}
