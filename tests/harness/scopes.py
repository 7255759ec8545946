"""Callers with different participants, data of these participants, and requests that concern one participant."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from vsync.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    cid_pb2,
    cid_pb2_grpc,
    reconciliation_pb2,
    reconciliation_pb2_grpc,
    sync_batch_pb2,
    sync_batch_pb2_grpc,
)

from tests.harness.access import ROLES, bearer, key_settings
from tests.harness.cids import a_record, cid_of

OWN, SECOND, FOREIGN = "10000001", "10000002", "20000001"
ISPBS: Final[Mapping[str, list[str]]] = {"own": [OWN], "two": [OWN, SECOND]}
# The first number of each participant's records.
FIRST: Final = {OWN: 100, SECOND: 200, FOREIGN: 300}
DAY: Final = date(2026, 11, 3).isoformat()
CPF: Final = cid_pb2.KEY_TYPE_CPF
EPOCH: Final = Timestamp(seconds=1)


def scoped_settings(folder: Path) -> dict[str, Any]:
    """Returns settings with the callers `all`, `other` (all participants too), `own` and `two`, with all roles."""
    return key_settings(folder, dict.fromkeys(("all", "other", *ISPBS), ROLES), ispbs=ISPBS)


def number_of(ispb: str, at: int) -> int:
    """Returns the number of a participant's record."""
    return FIRST[ispb] + at


def record_of(ispb: str, at: int, **changes: Any) -> cid_pb2.CidRecord:
    """Returns a participant's record."""
    return a_record(number_of(ispb, at), ispb=ispb, **changes)


class Stubs:
    """The services, called by one caller."""

    def __init__(self, channel: grpc.aio.Channel, caller: str) -> None:
        self.metadata = bearer(caller)
        self.cids: cid_pb2_grpc.CidServiceAsyncStub = cid_pb2_grpc.CidServiceStub(channel)
        self.batches: sync_batch_pb2_grpc.SyncBatchServiceAsyncStub = sync_batch_pb2_grpc.SyncBatchServiceStub(channel)
        self.audit: audit_pb2_grpc.AuditServiceAsyncStub = audit_pb2_grpc.AuditServiceStub(channel)
        self.reconciliation: reconciliation_pb2_grpc.ReconciliationServiceAsyncStub = (
            reconciliation_pb2_grpc.ReconciliationServiceStub(channel)
        )

    async def create(self, *records: cid_pb2.CidRecord) -> Sequence[cid_pb2.CidRecord]:
        """Creates records."""
        request = cid_pb2.BatchCreateCidsRequest(records=records)
        return (await self.cids.BatchCreateCids(request, metadata=self.metadata)).records

    async def running(self, ispb: str) -> str:
        """Creates and starts a batch. Returns its id."""
        created = await self.batches.CreateSyncBatch(
            sync_batch_pb2.CreateSyncBatchRequest(ispb=ispb, batch_date=DAY), metadata=self.metadata
        )
        start = sync_batch_pb2.StartSyncBatchRequest(id=created.batch.id)
        await self.batches.StartSyncBatch(start, metadata=self.metadata)
        return created.batch.id

    async def claim(self, batch_id: str) -> str:
        """Claims a record. Returns the token."""
        request = sync_batch_pb2.ClaimSyncRecordsRequest(
            batch_id=batch_id, worker_id="w", max_records=1, lease_duration=Duration(seconds=60)
        )
        return (await self.batches.ClaimSyncRecords(request, metadata=self.metadata)).claim_token

    async def audit_of(self, cid: str) -> Sequence[audit_pb2.AuditLog]:
        """Returns the audit entries of a CID."""
        request = audit_pb2.ListAuditLogsRequest(cid=cid)
        return (await self.audit.ListAuditLogs(request, metadata=self.metadata)).logs


class Target(NamedTuple):
    """The data of one participant that requests name."""

    ispb: str
    record: cid_pb2.CidRecord
    batch: str
    claim: str
    entry: str


async def target(channel: grpc.aio.Channel, ispb: str, caller: str) -> Target:
    """Creates two records, a batch and a claim of a participant as this caller."""
    stubs = Stubs(channel, caller)
    record, _ = await stubs.create(record_of(ispb, 0), record_of(ispb, 1))
    batch = await stubs.running(ispb)
    by = audit_pb2.AuditLog(action="test", ispb=ispb)
    appended = await stubs.audit.AppendAuditLog(audit_pb2.AppendAuditLogRequest(log=by), metadata=stubs.metadata)
    return Target(ispb, record, batch, await stubs.claim(batch), appended.log.id)


class Case(NamedTuple):
    """The requests of a call about a participant, and the outcome for a caller who may not access it."""

    outcome: str
    requests: Callable[[Target], Sequence[Message]]


def _case(outcome: str, request: Callable[[Target], Message]) -> Case:
    return Case(outcome, lambda of: [request(of)])


def _import(of: Target) -> Sequence[Message]:
    start = cid_pb2.ImportStart(import_id=str(uuid4()), on_conflict=cid_pb2.ON_CONFLICT_FAIL)
    chunk = cid_pb2.ImportChunk(number=1, records=[record_of(of.ispb, 9)])
    return [cid_pb2.ImportCidsRequest(start=start), cid_pb2.ImportCidsRequest(chunk=chunk)]


def _diff(of: Target) -> Sequence[Message]:
    start = reconciliation_pb2.DiffStart(ispb=of.ispb, key_type=CPF, file_created_at=EPOCH)
    end = reconciliation_pb2.DiffEnd(count=0)
    return [reconciliation_pb2.DiffCidSetRequest(start=start), reconciliation_pb2.DiffCidSetRequest(end=end)]


def _update(of: Target) -> Message:
    return cid_pb2.UpdateCidRequest(
        cid=of.record.cid,
        update=cid_pb2.CidUpdate(cid=cid_of(number_of(of.ispb, 8))),
        update_mask=FieldMask(paths=["cid"]),
        validate_only=True,
    )


def _claim(of: Target) -> Message:
    return sync_batch_pb2.ClaimSyncRecordsRequest(
        batch_id=of.batch, worker_id="w", max_records=1, lease_duration=Duration(seconds=60), validate_only=True
    )


def _report(of: Target) -> Message:
    result = sync_batch_pb2.SyncResult(cid=of.record.cid, sync_status=cid_pb2.SYNC_STATUS_SYNCED)
    return sync_batch_pb2.ReportSyncRecordsRequest(claim_token=of.claim, results=[result], validate_only=True)


def _verification(of: Target) -> Message:
    verification = reconciliation_pb2.VsyncVerification(
        ispb=of.ispb,
        key_type=CPF,
        submitted_vsync="00" * 32,
        directory_result=reconciliation_pb2.DIRECTORY_RESULT_OK,
    )
    return reconciliation_pb2.RecordVsyncVerificationRequest(verification=verification, validate_only=True)


# Each method whose data belongs to participants. All writes but ImportCids are only validated.
CASES: Final[Mapping[str, Case]] = {
    "vsync.v1.CidService.CreateCid": _case(
        "ISPB_DENIED", lambda of: cid_pb2.CreateCidRequest(record=record_of(of.ispb, 7), validate_only=True)
    ),
    "vsync.v1.CidService.BatchCreateCids": _case(
        "ISPB_DENIED", lambda of: cid_pb2.BatchCreateCidsRequest(records=[record_of(of.ispb, 7)], validate_only=True)
    ),
    "vsync.v1.CidService.ImportCids": Case("ISPB_DENIED", _import),
    "vsync.v1.CidService.GetCid": _case("CID_NOT_FOUND", lambda of: cid_pb2.GetCidRequest(id=of.record.id)),
    "vsync.v1.CidService.BatchGetCids": _case("missing", lambda of: cid_pb2.BatchGetCidsRequest(cids=[of.record.cid])),
    "vsync.v1.CidService.ListCids": _case(
        "ISPB_DENIED", lambda of: cid_pb2.ListCidsRequest(filter=cid_pb2.CidFilter(ispb=of.ispb))
    ),
    "vsync.v1.CidService.ExportCids": _case(
        "ISPB_DENIED", lambda of: cid_pb2.ExportCidsRequest(filter=cid_pb2.CidFilter(ispb=of.ispb))
    ),
    "vsync.v1.CidService.CountCids": _case("ISPB_DENIED", lambda of: cid_pb2.CountCidsRequest(ispb=of.ispb)),
    "vsync.v1.CidService.UpdateCid": _case("CID_NOT_FOUND", _update),
    "vsync.v1.CidService.UpdateSyncStatus": _case(
        "missing",
        lambda of: cid_pb2.UpdateSyncStatusRequest(
            cids=[of.record.cid], sync_status=cid_pb2.SYNC_STATUS_SYNCED, validate_only=True
        ),
    ),
    "vsync.v1.CidService.DeleteCid": _case(
        "CID_NOT_FOUND", lambda of: cid_pb2.DeleteCidRequest(cid=of.record.cid, validate_only=True)
    ),
    "vsync.v1.CidService.BatchDeleteCids": _case(
        "missing", lambda of: cid_pb2.BatchDeleteCidsRequest(cids=[of.record.cid], validate_only=True)
    ),
    "vsync.v1.SyncBatchService.CreateSyncBatch": _case(
        "ISPB_DENIED",
        lambda of: sync_batch_pb2.CreateSyncBatchRequest(ispb=of.ispb, batch_date="2026-11-09", validate_only=True),
    ),
    "vsync.v1.SyncBatchService.GetSyncBatch": _case(
        "BATCH_NOT_FOUND", lambda of: sync_batch_pb2.GetSyncBatchRequest(id=of.batch)
    ),
    "vsync.v1.SyncBatchService.ListSyncBatches": _case(
        "ISPB_DENIED", lambda of: sync_batch_pb2.ListSyncBatchesRequest(ispb=of.ispb)
    ),
    "vsync.v1.SyncBatchService.StartSyncBatch": _case(
        "BATCH_NOT_FOUND", lambda of: sync_batch_pb2.StartSyncBatchRequest(id=of.batch, validate_only=True)
    ),
    "vsync.v1.SyncBatchService.ClaimSyncRecords": _case("BATCH_NOT_FOUND", _claim),
    "vsync.v1.SyncBatchService.ExtendSyncLease": _case(
        "CLAIM_NOT_FOUND",
        lambda of: sync_batch_pb2.ExtendSyncLeaseRequest(
            claim_token=of.claim, lease_duration=Duration(seconds=60), validate_only=True
        ),
    ),
    "vsync.v1.SyncBatchService.ReleaseSyncRecords": _case(
        "CLAIM_NOT_FOUND",
        lambda of: sync_batch_pb2.ReleaseSyncRecordsRequest(claim_token=of.claim, validate_only=True),
    ),
    "vsync.v1.SyncBatchService.ReportSyncRecords": _case("CLAIM_NOT_FOUND", _report),
    "vsync.v1.SyncBatchService.CompleteSyncBatch": _case(
        "BATCH_NOT_FOUND", lambda of: sync_batch_pb2.CompleteSyncBatchRequest(id=of.batch, validate_only=True)
    ),
    "vsync.v1.SyncBatchService.FailSyncBatch": _case(
        "BATCH_NOT_FOUND",
        lambda of: sync_batch_pb2.FailSyncBatchRequest(id=of.batch, error_message="no", validate_only=True),
    ),
    "vsync.v1.SyncBatchService.RetrySyncBatch": _case(
        "BATCH_NOT_FOUND", lambda of: sync_batch_pb2.RetrySyncBatchRequest(id=of.batch, validate_only=True)
    ),
    "vsync.v1.AuditService.AppendAuditLog": _case(
        "ISPB_DENIED",
        lambda of: audit_pb2.AppendAuditLogRequest(
            log=audit_pb2.AuditLog(action="test", ispb=of.ispb), validate_only=True
        ),
    ),
    "vsync.v1.AuditService.BatchAppendAuditLogs": _case(
        "ISPB_DENIED",
        lambda of: audit_pb2.BatchAppendAuditLogsRequest(
            logs=[audit_pb2.AuditLog(action="test", ispb=of.ispb)], validate_only=True
        ),
    ),
    "vsync.v1.AuditService.GetAuditLog": _case(
        "AUDIT_LOG_NOT_FOUND", lambda of: audit_pb2.GetAuditLogRequest(id=of.entry)
    ),
    "vsync.v1.AuditService.ListAuditLogs": _case(
        "ISPB_DENIED", lambda of: audit_pb2.ListAuditLogsRequest(cid=of.record.cid, ispb=of.ispb)
    ),
    "vsync.v1.ReconciliationService.GetVsync": _case(
        "ISPB_DENIED", lambda of: reconciliation_pb2.GetVsyncRequest(ispb=of.ispb, key_type=CPF)
    ),
    "vsync.v1.ReconciliationService.ListVsyncs": _case(
        "ISPB_DENIED", lambda of: reconciliation_pb2.ListVsyncsRequest(ispb=of.ispb)
    ),
    "vsync.v1.ReconciliationService.RecomputeVsync": _case(
        "ISPB_DENIED", lambda of: reconciliation_pb2.RecomputeVsyncRequest(ispb=of.ispb, key_type=CPF)
    ),
    "vsync.v1.ReconciliationService.RecordVsyncVerification": _case("ISPB_DENIED", _verification),
    "vsync.v1.ReconciliationService.ListVsyncVerifications": _case(
        "ISPB_DENIED", lambda of: reconciliation_pb2.ListVsyncVerificationsRequest(ispb=of.ispb, key_type=CPF)
    ),
    "vsync.v1.ReconciliationService.DiffCidSet": Case("ISPB_DENIED", _diff),
    "vsync.v1.ReconciliationService.ListCidEvents": _case(
        "ISPB_DENIED",
        lambda of: reconciliation_pb2.ListCidEventsRequest(
            ispb=of.ispb, key_type=CPF, created_after=of.record.created_at
        ),
    ),
    "vsync.v1.ReconciliationService.WatchCidEvents": _case(
        "ISPB_DENIED", lambda of: reconciliation_pb2.WatchCidEventsRequest(ispb=of.ispb)
    ),
}
