"""The batches in the answer of GetStatus."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from vsync.v1 import status_pb2 as pb

from vsyncd.core.rates import Rates
from vsyncd.core.timestamps import timestamp
from vsyncd.domains.sync_batches.batch_lock import batch_queries
from vsyncd.domains.sync_batches.states import BatchStatus
from vsyncd.postgres.queries import Session

_MAX_BATCHES: Final = 500
_FAILED_DAYS: Final = 7
# Failed records of a batch that are read for their reasons.
_MAX_FAILURES: Final = 50


class BatchStatusReader:
    """Reads the section `batches`. Keeps the progress of the last minutes for the rates."""

    def __init__(self, schema: str) -> None:
        self._queries = batch_queries(schema)
        self._rates = Rates()

    async def read(self, session: Session, status: pb.ServerStatus) -> None:
        rows = await session.all(
            self._queries["status_batches"], {"limit": _MAX_BATCHES + 1, "failed_days": _FAILED_DAYS}
        )
        failed = [row[0] for row in rows if row[6]]
        parameters = {"batch_ids": failed, "per_batch": _MAX_FAILURES}
        reasons = await session.all(self._queries["failure_reasons"], parameters) if failed else []
        self._rates.observe({row[0]: sum(row[5:8]) for row in rows})
        by_batch: dict[UUID, list[pb.FailureReason]] = {}
        for batch_id, reason, records in reasons:
            by_batch.setdefault(batch_id, []).append(pb.FailureReason(reason=reason, records=records))
        for row in rows[:_MAX_BATCHES]:
            batch = pb.BatchStatus(
                id=str(row[0]),
                ispb=row[1],
                batch_date=row[2].isoformat(),
                status=row[3],
                total_records=row[4],
                synced_records=row[5],
                failed_records=row[6],
                skipped_records=row[7],
                leased_records=row[8],
                started_at=timestamp(row[9]),
                completed_at=timestamp(row[10]),
                updated_at=timestamp(row[11]),
                oldest_lease_expires_at=timestamp(row[12]),
                failure_reasons=by_batch.get(row[0], ()),
            )
            if row[3] == BatchStatus.RUNNING:
                self._estimate(batch, row[0], row[9], row[13])
            status.batches.append(batch)
        if len(rows) > _MAX_BATCHES:
            status.truncated.append("batches")

    def _estimate(self, batch: pb.BatchStatus, key: UUID, started_at: datetime, now: datetime) -> None:
        """Adds the rate and the estimated time of completion."""
        done = batch.synced_records + batch.failed_records + batch.skipped_records
        rate = self._rates.per_second(key)
        if rate is None:
            rate = done / max((now - started_at).total_seconds(), 1.0)
        batch.records_per_second = rate
        left = batch.total_records - done
        # A rate of one record a day is no estimate either.
        if left and rate * timedelta(days=1).total_seconds() >= 1:
            batch.estimated_completion.FromDatetime(now + timedelta(seconds=min(left / rate, 10.0**8)))
