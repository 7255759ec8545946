"""Records of batches, claims and reports. Enumerations are the numbers of the enums of vsync.v1."""

from datetime import date, datetime
from enum import IntEnum
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.core.validation import MAX_ERROR_CHARS
from vsyncd.domains.cids.records import CidRecord
from vsyncd.postgres.mutations import AnswerCodec
from vsyncd.postgres.tables import RecordTable


class SyncBatch(NamedTuple):
    """A batch. `ispb` is empty for a batch of all participants."""

    id: UUID
    ispb: str
    batch_date: date
    status: int
    total_records: int
    synced_records: int
    failed_records: int
    skipped_records: int
    leased_records: int
    started_at: datetime | None
    completed_at: datetime | None
    error_message: str
    revision: int
    created_at: datetime
    updated_at: datetime
    oldest_lease_expires_at: datetime | None

    def dump(self) -> bytes:
        """Returns the batch as bytes, from which a repeated request is answered."""
        return _SYNC_BATCH.encode(self)

    @classmethod
    def load(cls, data: bytes) -> "SyncBatch":
        return _SYNC_BATCH.decode(data)


_SYNC_BATCH: Final = AnswerCodec(SyncBatch)


class BatchFilter(NamedTuple):
    """Selects batches from a day on. Status 0 and an empty ispb match any value."""

    status: int
    from_day: date
    ispb: str


class BatchPosition(NamedTuple):
    """A position in the list of batches: below this day and ispb."""

    day: date
    ispb: str


class SyncClaim(NamedTuple):
    """Records that are leased to a worker. A claim without records has no token and no lease."""

    records: list[CidRecord]
    token: UUID | None = None
    lease_expires_at: datetime | None = None


class Extension(NamedTuple):
    """The number of records whose lease was extended, and its new end."""

    extended: int
    lease_expires_at: datetime


class SyncResult(NamedTuple):
    """The directory's result for one record: SYNCED, or FAILED with an error."""

    cid: bytes
    sync_status: int
    error: str | None


class RecordOutcome(IntEnum):
    """The outcome of a record of a batch: the column sync_batch_records.outcome, which is NULL while it is open."""

    SYNCED = 1
    FAILED = 2
    SKIPPED = 3


class ReportOutcome(IntEnum):
    """The outcome of a reported result: the numbers of vsync.v1.ReportOutcome."""

    APPLIED = 1
    REPEATED = 2
    STALE = 3


TABLES: Final = (
    RecordTable(
        SyncBatch,
        "sync_batches",
        computed=frozenset({"leased_records", "oldest_lease_expires_at"}),
        max_chars={"error_message": MAX_ERROR_CHARS},
    ),
)
