"""What is stored of batches, and what claims and reports come to. Enumerations are the numbers of vsync.v1's enums."""

from datetime import date, datetime
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

from vsyncd.core.answers import decode_answer, encode_answer
from vsyncd.domains.cids.records import CidRecord


class SyncBatch(NamedTuple):
    """A batch, its columns in the order of queries.sql. `ispb` is empty for all participants."""

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
        """Returns the bytes from which `load` restores the batch, to answer a repeated request."""
        return encode_answer(self)

    @classmethod
    def load(cls, data: bytes) -> "SyncBatch":
        """Returns the batch of `dump`."""
        return cls._make(decode_answer(data))


class BatchFilter(NamedTuple):
    """Which batches. `status` 0: any; `from_day` inclusive; `ispb` empty: any."""

    status: int
    from_day: date
    ispb: str


class BatchPosition(NamedTuple):
    """A place in a list of batches: below this day and ispb."""

    day: date
    ispb: str


class SyncClaim(NamedTuple):
    """Records that are one worker's until the lease ends. Without records there is no token and no lease."""

    records: list[CidRecord]
    token: UUID | None = None
    lease_expires_at: datetime | None = None


class Extension(NamedTuple):
    """How many records a lease is extended for, and until when."""

    extended: int
    lease_expires_at: datetime


class SyncResult(NamedTuple):
    """What the directory said of one record: `sync_status` SYNCED or FAILED; `error` only with FAILED."""

    cid: bytes
    sync_status: int
    error: str | None


class RecordOutcome(IntEnum):
    """What became of a record of a batch: the column sync_batch_records.outcome, NULL while it is open."""

    SYNCED = 1
    FAILED = 2
    SKIPPED = 3


class ReportOutcome(IntEnum):
    """The numbers of vsync.v1.ReportOutcome."""

    APPLIED = 1
    REPEATED = 2
    STALE = 3
