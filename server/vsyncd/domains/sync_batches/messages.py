"""Converts the messages of sync_batch.proto to records and back."""

from collections.abc import Sequence

from vsync.v1 import sync_batch_pb2 as pb

from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import Validator
from vsyncd.domains.cids.messages import record_message
from vsyncd.domains.cids.records import FAILED, SYNCED
from vsyncd.domains.sync_batches.records import ReportOutcome, SyncBatch, SyncClaim, SyncResult


def batch_message(batch: SyncBatch) -> pb.SyncBatch:
    return pb.SyncBatch(
        id=str(batch.id),
        ispb=batch.ispb,
        batch_date=batch.batch_date.isoformat(),
        status=batch.status,  # type: ignore[arg-type]  # an enum's number; a CHECK keeps it in range
        total_records=batch.total_records,
        synced_records=batch.synced_records,
        failed_records=batch.failed_records,
        skipped_records=batch.skipped_records,
        leased_records=batch.leased_records,
        started_at=timestamp(batch.started_at),
        completed_at=timestamp(batch.completed_at),
        error_message=batch.error_message,
        revision=batch.revision,
        created_at=timestamp(batch.created_at),
        updated_at=timestamp(batch.updated_at),
        oldest_lease_expires_at=timestamp(batch.oldest_lease_expires_at),
    )


def claim_message(claim: SyncClaim) -> pb.ClaimSyncRecordsResponse:
    return pb.ClaimSyncRecordsResponse(
        records=[record_message(record) for record in claim.records],
        claim_token=str(claim.token) if claim.token else "",
        lease_expires_at=timestamp(claim.lease_expires_at),
    )


def outcome_message(result: SyncResult, outcome: ReportOutcome) -> pb.SyncResultOutcome:
    return pb.SyncResultOutcome(cid=result.cid.hex(), outcome=outcome)  # type: ignore[arg-type]  # an enum's number


def read_results(messages: Sequence[pb.SyncResult], validator: Validator) -> list[SyncResult]:
    """Reads 1 to 1,000 results with distinct cids."""
    if not validator.batch("results", messages):
        return []
    results = [_read_result(message, f"results[{index}].", validator) for index, message in enumerate(messages)]
    cids = [result.cid for result in results]
    validator.distinct("results", cids, "the same cid appears earlier in the request", ".cid")
    return results


def _read_result(message: pb.SyncResult, prefix: str, validator: Validator) -> SyncResult:
    cid = validator.cid(f"{prefix}cid", message.cid)
    if message.sync_status == FAILED:
        validator.error_text(f"{prefix}error", message.error)
    elif message.sync_status != SYNCED:
        validator.add(f"{prefix}sync_status", "must be SYNC_STATUS_SYNCED or SYNC_STATUS_FAILED")
    elif message.error:
        validator.add(f"{prefix}error", "must be empty unless sync_status is SYNC_STATUS_FAILED")
    return SyncResult(cid, message.sync_status, message.error or None)
