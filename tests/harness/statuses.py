"""Answers of GetStatus in five states, for the operations page and `vsync top`."""

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from vsync.health.v1 import health_pb2
from vsync.v1 import status_pb2 as pb
from vsync.v1.cid_pb2 import KeyType
from vsync.v1.reconciliation_pb2 import DIRECTORY_RESULT_NOK, DIRECTORY_RESULT_OK, DirectoryResult
from vsync.v1.sync_batch_pb2 import (
    SYNC_BATCH_STATUS_COMPLETED,
    SYNC_BATCH_STATUS_FAILED,
    SYNC_BATCH_STATUS_PENDING,
    SYNC_BATCH_STATUS_RUNNING,
)
from vsyncd.status.findings import find

HOSTILE: Final = "<img src=x onerror=document.title='hacked'>"
_SECTIONS: Final = ("instances", "jobs", "migrations", "imports", "batches", "vsyncs")
_METHODS: Final = {
    "CidService/GetCid": 240_000,
    "CidService/CreateCid": 18_400,
    "CidService/UpdateCid": 3_120,
    "CidService/ListCids": 912,
    "CidService/ImportCids": 3,
    "SyncBatchService/ClaimSyncRecords": 2_210,
    "SyncBatchService/ReportSyncRecords": 2_180,
    "ReconciliationService/GetVsync": 60,
    "ReconciliationService/WatchCidEvents": 12,
}
_STREAMS: Final = {"ImportCids", "WatchCidEvents"}
_FAILURES: Final = (
    ("CidService/GetCid", "NOT_FOUND", "CID_NOT_FOUND"),
    ("CidService/UpdateCid", "ABORTED", "REVISION_MISMATCH"),
    ("CidService/CreateCid", "ALREADY_EXISTS", "CID_EXISTS"),
    ("SyncBatchService/ReportSyncRecords", "NOT_FOUND", "CLAIM_NOT_FOUND"),
)


class _Builder:
    """Builds a status. The numbers are the same in each run; times are relative to now."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.random = random.Random(7)  # noqa: S311  no secret

    def ago(self, **elapsed: float) -> Timestamp:
        time = Timestamp()
        time.FromDatetime(self.now - timedelta(**elapsed))
        return time

    def dependency(self, name: str, kind: health_pb2.DependencyType.ValueType, **changes: Any) -> Any:
        metadata = {"circuit_breaker": "closed"} | (
            {"replication_lag_ms": "180"} if name.startswith("postgresql-replica") else {}
        )
        pool = health_pb2.ConnectionPoolInfo(max_connections=25, active_connections=7, idle_connections=5)
        config = health_pb2.DependencyConfig(metadata=metadata, pool_info=pool if kind == health_pb2.DATABASE else None)
        fields: dict[str, Any] = {"message": "it answers", "response_time_ms": 2, "config": config}
        return health_pb2.DependencyHealth(name=name, type=kind, **fields | changes)

    def empty(self) -> pb.ServerStatus:
        primary = self.dependency("postgresql-primary", health_pb2.DATABASE, is_critical=True)
        health = health_pb2.HealthResponse(message="All dependencies are healthy.", dependencies=[primary])
        jobs = [("fold totals", False, 1_000), ("maintain", True, 21_600_000), ("partition watch", False, 300_000)]
        return pb.ServerStatus(
            collected_at=self.ago(),
            version="0.1.0",
            start_time=self.ago(seconds=40),
            health=health,
            calls=pb.CallStatistics(since=self.ago(seconds=40), minutes=[self.minute(0, 0)]),
            jobs=[
                pb.JobStatus(
                    name=name,
                    exclusive=exclusive,
                    interval_ms=interval,
                    last_started=self.ago(seconds=1),
                    last_succeeded=self.ago(seconds=1),
                )
                for name, exclusive, interval in jobs
            ],
            partitioned_tables=[
                pb.PartitionedTableStatus(table=name, complete_until=self.ago(days=-91))
                for name in ("audit_logs", "cid_events", "request_ids")
            ],
            migration_sets=[
                pb.MigrationSetStatus(set=name, version=version, required_version=version)
                for name, version in (("core", 1), ("vsync", 4))
            ],
            instances=[pb.InstanceStatus(address="10.4.1.17", connected_at=self.ago(seconds=39))],
        )

    def minute(self, minutes_ago: int, calls: int, server_errors: int = 0) -> pb.MinuteStatus:
        begin = self.ago(minutes=minutes_ago, seconds=40)
        minute = pb.MinuteStatus(begin=begin, seconds=60 if minutes_ago else 40, calls=calls)
        minute.errors, minute.server_errors = calls // 190 + server_errors, server_errors
        if calls:
            minute.p50_ms, minute.p99_ms = 1.4 + self.random.random() / 2, 9 + 8 * self.random.random()
        return minute

    def healthy(self) -> pb.ServerStatus:
        """A working day of three participants."""
        status = self.empty()
        status.start_time.CopyFrom(self.ago(days=12, hours=3))
        for name in ("10.4.1.22", "10.4.2.9"):
            status.instances.add(address=name, connected_at=self.ago(days=3))
        dependencies = status.health.dependencies
        dependencies.append(self.dependency("postgresql-replica-1", health_pb2.DATABASE))
        dependencies.append(self.dependency("redis-cache", health_pb2.CACHE, response_time_ms=1))
        del status.calls.minutes[:]
        for minutes_ago in range(14, -1, -1):
            calls = self.random.randint(16_000, 19_500)
            status.calls.minutes.append(self.minute(minutes_ago, calls if minutes_ago else calls * 2 // 3))
        for name, calls in _METHODS.items():
            streaming = name.rpartition("/")[2] in _STREAMS
            method = status.calls.methods.add(method=f"vsync.v1.{name}", streaming=streaming, calls=calls)
            method.errors, method.in_flight = calls // 200, self.random.randint(0, 6)
            method.p50_ms, method.p99_ms = (41_000, 62_000) if streaming else (1.2, self.random.uniform(6, 90))
        for number in range(24):
            name, code, reason = _FAILURES[number % len(_FAILURES)]
            status.failures.add(
                time=self.ago(seconds=17 + 41 * number),
                method=f"vsync.v1.{name}",
                code=code,
                reason=reason,
                correlation_id=str(UUID(int=self.random.getrandbits(128), version=4)),
                duration_ms=self.random.uniform(0.8, 12),
            )
        status.imports.add(
            import_id=str(UUID(int=self.random.getrandbits(128), version=4)),
            inserted_records=412_000,
            skipped_records=1_204,
            created_at=self.ago(minutes=2),
            updated_at=self.ago(seconds=1),
            records_per_second=8_420,
        )
        status.backups.CopyFrom(
            pb.BackupStatus(
                last_at=self.ago(hours=9),
                last_verified_at=self.ago(hours=9),
                due_at=self.ago(hours=-15),
                last_bytes=48_318_382_080,
                states={"verified": 6, "restored": 1},
            )
        )
        for number in range(3):
            self.participant(status, 10_203_040 + 11_111_111 * number, rank=number)
        return status

    def participant(self, status: pb.ServerStatus, number: int, *, rank: int) -> None:
        """Adds the batch and the VSyncs of a participant."""
        ispb, total = f"{number:08d}", self.random.randint(4_000, 90_000)
        share = (1.0, 0.62, 0.18)[rank % 3]
        failed = total // 400
        batch = status.batches.add(id=str(UUID(int=number)), ispb=ispb, batch_date=f"{self.now:%Y-%m-%d}")
        batch.total_records, batch.failed_records, batch.skipped_records = total, failed, total // 900
        batch.synced_records = int(total * share) - failed - total // 900
        batch.started_at.CopyFrom(self.ago(minutes=20))
        batch.failure_reasons.add(reason="KEY_NOT_FOUND", records=failed * 2 // 3)
        batch.failure_reasons.add(reason="HTTP_503", records=failed - failed * 2 // 3)
        if share == 1:
            batch.status = SYNC_BATCH_STATUS_COMPLETED
            batch.completed_at.CopyFrom(self.ago(minutes=4))
        else:
            batch.status, batch.leased_records, batch.records_per_second = SYNC_BATCH_STATUS_RUNNING, 400, 51.4
            batch.oldest_lease_expires_at.CopyFrom(self.ago(seconds=-45))
            batch.estimated_completion.CopyFrom(self.ago(seconds=-(1 - share) * total / 51.4))
        for key_type in range(1, 6):
            count = self.random.randint(1_000, 2_000_000)
            self.vsync(status, ispb, key_type, count, DIRECTORY_RESULT_OK, hours=19 + rank)

    def vsync(
        self,
        status: pb.ServerStatus,
        ispb: str,
        key_type: int,
        count: int,
        verdict: DirectoryResult.ValueType,
        **since: float,
    ) -> None:
        vsync = status.vsyncs.add(ispb=ispb, key_type=KeyType.ValueType(key_type), count=count, verdict=verdict)
        vsync.vsync = sha256(f"{ispb} {key_type}".encode()).hexdigest()
        vsync.verdict_since.CopyFrom(self.ago(**since))
        vsync.verified_at.CopyFrom(self.ago(hours=1))

    def degraded(self) -> pb.ServerStatus:
        """A replica lags, a batch has failed, another has stalled, a VSync is rejected, and a job fails."""
        status = self.healthy()
        status.health.status = health_pb2.DEGRADED
        replica = status.health.dependencies[1]
        replica.status, replica.message = health_pb2.DEGRADED, "its lag is over 10 s: it is not read from"
        replica.config.metadata["replication_lag_ms"] = "41200"
        status.health.message = f"{replica.name}: {replica.message}"
        status.batches[1].records_per_second = 0
        status.batches[1].updated_at.CopyFrom(self.ago(minutes=3))
        status.batches[1].ClearField("estimated_completion")
        status.batches[2].status = SYNC_BATCH_STATUS_FAILED
        status.batches[2].ClearField("records_per_second")
        status.batches[2].ClearField("estimated_completion")
        rejected = status.vsyncs[2]
        rejected.verdict = DIRECTORY_RESULT_NOK
        rejected.verdict_since.CopyFrom(self.ago(days=1, hours=4))
        status.jobs[1].last_error = "partitions could not be dropped: permission denied"
        for minute in status.calls.minutes[9:13]:
            minute.server_errors, minute.p99_ms = minute.calls // 40, 480
            minute.errors += minute.server_errors
        status.failures.insert(
            0,
            pb.FailedCall(
                time=self.ago(seconds=4),
                method="vsync.v1.CidService/ListCids",
                code="DEADLINE_EXCEEDED",
                reason=HOSTILE,
                correlation_id="0" * 32,
                duration_ms=5_004,
            ),
        )
        return status

    def database_down(self) -> pb.ServerStatus:
        status = self.healthy()
        status.health.status = health_pb2.UNHEALTHY
        for dependency in status.health.dependencies[:2]:
            dependency.status, dependency.message = health_pb2.UNHEALTHY, "cannot be used: connection refused"
            dependency.config.metadata["circuit_breaker"] = "open"
            dependency.config.pool_info.CopyFrom(health_pb2.ConnectionPoolInfo(max_connections=25))
            dependency.config.metadata.pop("replication_lag_ms", None)
        names = [each.name for each in status.health.dependencies[:2]]
        status.health.message = "; ".join(f"{name}: cannot be used: connection refused" for name in names)
        for section in ("batches", "imports", "vsyncs", "migration_sets", "instances"):
            status.ClearField(section)
        status.unavailable.extend(pb.UnavailableSection(section=name, reason="CIRCUIT_OPEN") for name in _SECTIONS)
        for minute in status.calls.minutes[-3:]:
            minute.errors = minute.server_errors = minute.calls
            minute.p50_ms, minute.p99_ms = 0.3, 1.1
        return status

    def many(self) -> pb.ServerStatus:
        """200 participants."""
        status = self.healthy()
        for number in range(197):
            self.participant(status, 20_000_000 + 97 * number, rank=number)
        for number in range(9):
            status.batches[20 * number + 5].status = SYNC_BATCH_STATUS_PENDING
            rejected = status.vsyncs[100 * number + 3]
            rejected.verdict = DIRECTORY_RESULT_NOK
            rejected.verdict_since.CopyFrom(self.ago(hours=5 * number + 2))
        for batch in status.batches:
            if batch.status == SYNC_BATCH_STATUS_PENDING:
                kept = pb.BatchStatus(id=batch.id, ispb=batch.ispb, batch_date=batch.batch_date, status=batch.status)
                batch.CopyFrom(kept)
        return status


STATES: Final[Mapping[str, Callable[[_Builder], pb.ServerStatus]]] = {
    "healthy": _Builder.healthy,
    "degraded": _Builder.degraded,
    "database down": _Builder.database_down,
    "empty": _Builder.empty,
    "200 participants": _Builder.many,
}


def status_in(state: str) -> pb.ServerStatus:
    """Returns the status in one of STATES, with its findings."""
    status = STATES[state](_Builder())
    status.findings.extend(find(status))
    return status
