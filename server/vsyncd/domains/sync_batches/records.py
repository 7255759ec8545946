"""What is stored of batches, and what claims and reports come to. Enumerations are the numbers of vsync.v1's enums."""

import json
from collections.abc import Mapping
from datetime import date, datetime
from enum import IntEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from vsyncd.domains.cids.records import CidRecord
from vsyncd.postgres.tables import RecordTable


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
        """As bytes that `load` reads: what a repeated request is answered with."""
        return json.dumps({name: _plain(value) for name, value in self._asdict().items()}).encode()

    @classmethod
    def load(cls, data: bytes) -> "SyncBatch":
        """The batch that `dump` gave."""
        values: dict[str, Any] = json.loads(data)
        return cls(**{name: _READ[name](value) if name in _READ and value else value for name, value in values.items()})


def _plain(value: object) -> object:
    if isinstance(value, date):  # a datetime is one too
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value


_READ: Final[Mapping[str, Any]] = {
    "id": UUID,
    "batch_date": date.fromisoformat,
    "started_at": datetime.fromisoformat,
    "completed_at": datetime.fromisoformat,
    "created_at": datetime.fromisoformat,
    "updated_at": datetime.fromisoformat,
    "oldest_lease_expires_at": datetime.fromisoformat,
}


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


TABLES: Final = (
    RecordTable(SyncBatch, "sync_batches", computed=frozenset({"leased_records", "oldest_lease_expires_at"})),
)
