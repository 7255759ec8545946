"""/metrics describes the records, batches and verdicts of all participants."""

import asyncio
from datetime import UTC, datetime

import grpc
from google.protobuf.duration_pb2 import Duration
from vsync.v1 import reconciliation_pb2 as reconciliation
from vsync.v1 import reconciliation_pb2_grpc, sync_batch_pb2_grpc
from vsync.v1 import sync_batch_pb2 as pb
from vsync.v1.cid_pb2 import KEY_TYPE_CPF, KEY_TYPE_EVP, SYNC_STATUS_SYNCED
from vsyncd.app import Application
from vsyncd.config import Settings

from tests.harness.cids import ISPB, Stub, cid_of, create
from tests.harness.http import Samples, scrape
from tests.harness.reconciliation import VSYNC, diff, diff_requests

OK, NOK = reconciliation.DIRECTORY_RESULT_OK, reconciliation.DIRECTORY_RESULT_NOK


async def test_records_batches_and_verdicts_are_measured(
    channel: grpc.aio.Channel, cids: Stub, settings: Settings
) -> None:
    await create(cids, range(5))
    batches: sync_batch_pb2_grpc.SyncBatchServiceAsyncStub = sync_batch_pb2_grpc.SyncBatchServiceStub(channel)
    batch = (await batches.CreateSyncBatch(pb.CreateSyncBatchRequest(batch_date="2026-11-03"))).batch
    await batches.StartSyncBatch(pb.StartSyncBatchRequest(id=batch.id))
    lease = Duration(seconds=60)
    request = pb.ClaimSyncRecordsRequest(batch_id=batch.id, worker_id="w", max_records=3, lease_duration=lease)
    claim = await batches.ClaimSyncRecords(request)
    result = pb.SyncResult(cid=claim.records[0].cid, sync_status=SYNC_STATUS_SYNCED)
    await batches.ReportSyncRecords(pb.ReportSyncRecordsRequest(claim_token=claim.claim_token, results=[result]))
    stub: reconciliation_pb2_grpc.ReconciliationServiceAsyncStub
    stub = reconciliation_pb2_grpc.ReconciliationServiceStub(channel)
    verdicts = [(KEY_TYPE_CPF, OK), (KEY_TYPE_EVP, OK), (KEY_TYPE_EVP, NOK), (KEY_TYPE_EVP, NOK)]
    recorded = []
    for key_type, verdict in verdicts:
        verification = reconciliation.VsyncVerification(
            ispb=ISPB, key_type=key_type, submitted_vsync=VSYNC, directory_result=verdict
        )
        answer = await stub.RecordVsyncVerification(
            reconciliation.RecordVsyncVerificationRequest(verification=verification)
        )
        recorded.append(answer.verification)
    await diff(stub, diff_requests([bytes.fromhex(cid_of(99))]))
    async with Application(settings) as other:  # measures at its start
        samples = await _measured(other)
    assert [samples.of("vsyncd_records", status=each) for each in ("pending", "synced", "failed")] == [4, 1, 0]
    assert [samples.of("vsyncd_batches", status=each) for each in ("pending", "starting", "running")] == [0, 0, 1]
    results = ("open", "synced", "failed", "skipped")
    assert [samples.of("vsyncd_batch_records", result=each) for each in results] == [4, 1, 0, 0]
    current = (await batches.GetSyncBatch(pb.GetSyncBatchRequest(id=batch.id))).batch
    for name, at in {
        "vsyncd_batch_last_progress_timestamp_seconds": current.updated_at,
        "vsyncd_batch_oldest_lease_expiry_timestamp_seconds": claim.lease_expires_at,
        "vsyncd_nok_since_timestamp_seconds": recorded[2].created_at,
    }.items():
        measured = datetime.fromtimestamp(samples.of(name), UTC)
        assert abs((measured - at.ToDatetime(UTC)).total_seconds()) < 0.01, name
    assert [samples.of("vsyncd_verdicts", result=each) for each in ("ok", "nok")] == [1, 1]
    assert samples.of("vsyncd_diff_cids", kind="missing_here") == 1
    assert samples.of("vsyncd_diff_cids", kind="added_since") == 5


async def _measured(application: Application) -> Samples:
    """Returns the samples after the jobs have run."""
    async with asyncio.timeout(60):
        while True:
            samples = await scrape(application.http.port)
            values = [samples.of(name) for name in ("vsyncd_records", "vsyncd_batches", "vsyncd_verdicts")]
            if all(values):
                return samples
            await asyncio.sleep(0.05)
