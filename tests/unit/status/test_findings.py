"""What an operator should look at."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from vsync.health.v1 import health_pb2
from vsync.v1 import status_pb2 as pb
from vsync.v1.cid_pb2 import KEY_TYPE_PHONE
from vsync.v1.reconciliation_pb2 import DIRECTORY_RESULT_NOK, DIRECTORY_RESULT_OK
from vsync.v1.sync_batch_pb2 import SYNC_BATCH_STATUS_FAILED, SYNC_BATCH_STATUS_RUNNING
from vsyncd.status.findings import CRITICAL, WARNING, find

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
REJECTED = (
    "The directory rejects the VSyncs of: 7 PHONE since 2026-11-22 12:00 UTC, 6 PHONE since 2026-11-23 12:00 UTC, "
    "5 PHONE since 2026-11-24 12:00 UTC, 4 PHONE since 2026-11-25 12:00 UTC, 3 PHONE since 2026-11-26 12:00 UTC "
    "and 2 more."
)


def at(**before: float) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(NOW - timedelta(**before))
    return time


def healthy() -> pb.ServerStatus:
    """A status without findings."""
    dependency = health_pb2.DependencyHealth(name="postgresql-primary", is_critical=True, message="it answers")
    return pb.ServerStatus(
        collected_at=at(),
        health=health_pb2.HealthResponse(dependencies=[dependency]),
        calls=pb.CallStatistics(minutes=[pb.MinuteStatus(calls=1000, errors=900, server_errors=9)]),
        batches=[
            # It has just begun, and reported nothing yet.
            pb.BatchStatus(status=SYNC_BATCH_STATUS_RUNNING, total_records=9, updated_at=at(seconds=90)),
            pb.BatchStatus(
                status=SYNC_BATCH_STATUS_RUNNING, total_records=9, synced_records=9, updated_at=at(minutes=5)
            ),
        ],
        vsyncs=[pb.VsyncStatus(ispb="1", verdict=DIRECTORY_RESULT_OK), pb.VsyncStatus(ispb="2")],
        jobs=[pb.JobStatus(name="maintain")],
        backups=pb.BackupStatus(last_at=at(hours=1), last_verified_at=at(hours=1), due_at=at(hours=-1)),
        partitioned_tables=[pb.PartitionedTableStatus(table="audit_logs", complete_until=at(days=-60))],
        migration_sets=[pb.MigrationSetStatus(set="core", version=1, required_version=1)],
    )


def _database_down(status: pb.ServerStatus) -> None:
    status.health.dependencies[0].status = health_pb2.UNHEALTHY
    status.health.dependencies[0].message = "cannot be used: timeout"
    status.unavailable.add(section="batches", reason="CIRCUIT_OPEN")


def _batches(status: pb.ServerStatus) -> None:
    status.batches[0].updated_at.CopyFrom(at(minutes=3))
    status.batches.add(status=SYNC_BATCH_STATUS_FAILED, ispb="12345678", batch_date="2026-11-28")


def _vsyncs(status: pb.ServerStatus) -> None:
    for day in range(1, 8):
        status.vsyncs.add(
            ispb=f"{day}", key_type=KEY_TYPE_PHONE, verdict=DIRECTORY_RESULT_NOK, verdict_since=at(days=day)
        )


def _upkeep(status: pb.ServerStatus) -> None:
    status.jobs[0].last_error = "STORAGE_FULL"
    status.backups.due_at.CopyFrom(at(hours=2))
    status.partitioned_tables[0].complete_until.CopyFrom(at(days=-2))
    status.migration_sets[0].required_version = 2
    status.calls.minutes[0].server_errors = 11


def _no_backup(status: pb.ServerStatus) -> None:
    status.backups.ClearField("last_at")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda _: None, []),
        (
            _database_down,
            [
                (CRITICAL, "postgresql-primary: cannot be used: timeout."),
                (WARNING, "The database did not answer for: batches (CIRCUIT_OPEN)."),
            ],
        ),
        (
            _batches,
            [
                (CRITICAL, "FAILED batches: 12345678 of 2026-11-28."),
                (WARNING, "Batches without progress in the last two minutes: all participants of ."),
            ],
        ),
        (
            _vsyncs,
            [(CRITICAL, REJECTED)],
        ),
        (
            _upkeep,
            [
                (CRITICAL, "Migrations are missing in the sets: core."),
                (CRITICAL, "A backup is overdue: the last one is of 2026-11-29 11:00 UTC."),
                (CRITICAL, "Partitions end soon: audit_logs until 2026-12-01 12:00 UTC."),
                (WARNING, "11 of 1,000 calls in the last 15 minutes failed with an error of the server."),
                (WARNING, "Jobs whose last run has failed: maintain (STORAGE_FULL)."),
            ],
        ),
        (_no_backup, [(CRITICAL, "There is no good backup.")]),
    ],
)
def test_findings(
    change: Callable[[pb.ServerStatus], None], expected: list[tuple[pb.FindingSeverity.ValueType, str]]
) -> None:
    status = healthy()
    change(status)
    assert [(finding.severity, finding.message) for finding in find(status)] == expected
