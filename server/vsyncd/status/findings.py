"""What an operator should look at, derived from the other fields of a status. Pure."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from vsync.health.v1 import health_pb2
from vsync.v1 import status_pb2 as pb
from vsync.v1.cid_pb2 import KeyType
from vsync.v1.reconciliation_pb2 import DIRECTORY_RESULT_NOK
from vsync.v1.sync_batch_pb2 import SYNC_BATCH_STATUS_FAILED, SYNC_BATCH_STATUS_RUNNING

WARNING: Final = pb.FINDING_SEVERITY_WARNING
CRITICAL: Final = pb.FINDING_SEVERITY_CRITICAL
# Findings of one kind that are listed one by one. The others are counted.
_MAX_LISTED: Final = 5
_MAX_BATCH_IDLE: Final = timedelta(minutes=2)
_MIN_PARTITIONS_AHEAD: Final = timedelta(days=14)
# The share of calls that failed by the server's fault.
_MAX_SERVER_ERRORS: Final = 0.01


def find(status: pb.ServerStatus) -> list[pb.Finding]:
    """Returns the findings, most urgent first."""
    found = [
        *_of_health(status),
        *_of_sections(status),
        *_of_batches(status),
        *_of_vsyncs(status),
        *_of_calls(status),
        *_of_upkeep(status),
    ]
    return sorted(found, key=lambda finding: -finding.severity)


def _finding(severity: pb.FindingSeverity.ValueType, section: str, message: str) -> pb.Finding:
    return pb.Finding(severity=severity, section=section, message=message)


def _of_health(status: pb.ServerStatus) -> Iterator[pb.Finding]:
    for dependency in status.health.dependencies:
        if dependency.status != health_pb2.HEALTHY:
            down = dependency.is_critical and dependency.status == health_pb2.UNHEALTHY
            yield _finding(CRITICAL if down else WARNING, "health", f"{dependency.name}: {dependency.message}.")


def _of_sections(status: pb.ServerStatus) -> Iterator[pb.Finding]:
    if status.unavailable:
        names = ", ".join(each.section for each in status.unavailable)
        reasons = ", ".join(sorted({each.reason for each in status.unavailable}))
        yield _finding(WARNING, "unavailable", f"The database did not answer for: {names} ({reasons}).")


def _of_batches(status: pb.ServerStatus) -> Iterator[pb.Finding]:
    failed = [batch for batch in status.batches if batch.status == SYNC_BATCH_STATUS_FAILED]
    now = status.collected_at.ToDatetime(UTC)
    stalled = [batch for batch in status.batches if _is_stalled(batch, now)]
    yield from _listed(CRITICAL, "batches", "FAILED batches", map(_batch_name, failed))
    yield from _listed(
        WARNING, "batches", "Batches without progress in the last two minutes", map(_batch_name, stalled)
    )


def _is_stalled(batch: pb.BatchStatus, now: datetime) -> bool:
    left = batch.total_records - batch.synced_records - batch.failed_records - batch.skipped_records
    is_old = now - batch.updated_at.ToDatetime(UTC) > _MAX_BATCH_IDLE
    return batch.status == SYNC_BATCH_STATUS_RUNNING and left > 0 and is_old


def _batch_name(batch: pb.BatchStatus) -> str:
    return f"{batch.ispb or 'all participants'} of {batch.batch_date}"


def _of_vsyncs(status: pb.ServerStatus) -> Iterator[pb.Finding]:
    rejected = [vsync for vsync in status.vsyncs if vsync.verdict == DIRECTORY_RESULT_NOK]
    rejected.sort(key=lambda vsync: vsync.verdict_since.ToNanoseconds())
    names = (
        f"{vsync.ispb} {KeyType.Name(vsync.key_type).removeprefix('KEY_TYPE_')} since {_day(vsync.verdict_since)}"
        for vsync in rejected
    )
    yield from _listed(CRITICAL, "vsyncs", "The directory rejects the VSyncs of", names)


def _of_calls(status: pb.ServerStatus) -> Iterator[pb.Finding]:
    calls = sum(minute.calls for minute in status.calls.minutes)
    errors = sum(minute.server_errors for minute in status.calls.minutes)
    if errors > max(1, calls * _MAX_SERVER_ERRORS):
        message = f"{errors:,} of {calls:,} calls in the last 15 minutes failed with an error of the server."
        yield _finding(WARNING, "calls", message)


def _of_upkeep(status: pb.ServerStatus) -> Iterator[pb.Finding]:
    now = status.collected_at.ToDatetime(UTC)
    outdated = [each.set for each in status.migration_sets if each.version < each.required_version]
    yield from _listed(CRITICAL, "migration_sets", "Migrations are missing in the sets", outdated)
    failed = (f"{job.name} ({job.last_error})" for job in status.jobs if job.last_error)
    yield from _listed(WARNING, "jobs", "Jobs whose last run has failed", failed)
    if status.HasField("backups"):
        yield from _of_backups(status.backups, now)
    short = (
        f"{each.table} until {_day(each.complete_until)}"
        for each in status.partitioned_tables
        if each.complete_until.ToDatetime(UTC) - now < _MIN_PARTITIONS_AHEAD
    )
    yield from _listed(CRITICAL, "partitioned_tables", "Partitions end soon", short)


def _of_backups(backups: pb.BackupStatus, now: datetime) -> Iterator[pb.Finding]:
    if not backups.HasField("last_at"):
        yield _finding(CRITICAL, "backups", "There is no good backup.")
    elif backups.due_at.ToDatetime(UTC) < now:
        yield _finding(CRITICAL, "backups", f"A backup is overdue: the last one is of {_day(backups.last_at)}.")
    elif not backups.HasField("last_verified_at"):
        yield _finding(WARNING, "backups", "No backup was verified.")


def _listed(
    severity: pb.FindingSeverity.ValueType, section: str, subject: str, names: Iterable[str]
) -> Iterator[pb.Finding]:
    """Yields one finding for all names, if there are any."""
    each = list(names)
    if each:
        more = f" and {len(each) - _MAX_LISTED} more" if len(each) > _MAX_LISTED else ""
        yield _finding(severity, section, f"{subject}: {', '.join(each[:_MAX_LISTED])}{more}.")


def _day(time: Timestamp) -> str:
    return f"{time.ToDatetime(UTC):%Y-%m-%d %H:%M} UTC"
