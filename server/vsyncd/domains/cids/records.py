"""What is stored of a CID. Enumerations are the numbers of vsync.v1's enums."""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.core.ids import time_of

PENDING: Final = 1
SYNCED: Final = 2
FAILED: Final = 3


class NewCid(NamedTuple):
    """A record as a caller sends it, validated. `cid` is 32 bytes; `dict_request_id` a UUID in lower case."""

    cid: bytes
    key_type: int
    key_value: str
    ispb: str
    branch: str | None
    account_number: str
    account_type: int
    tax_id: str
    dict_request_id: str | None


class CidRecord(NamedTuple):
    """A record as it is stored, its columns in the order of COLUMNS in queries.sql."""

    id: UUID
    cid: bytes
    key_type: int
    key_value: str
    ispb: str
    branch: str | None
    account_number: str
    account_type: int
    tax_id: str
    dict_request_id: UUID | None
    sync_status: int
    created_at: datetime
    updated_at: datetime
    synced_at: datetime | None
    last_error: str | None
    revision: int

    @classmethod
    def created(cls, identifier: UUID, new: NewCid) -> "CidRecord":
        """What a creation under this id comes to: all the rest follows from it."""
        now = time_of(identifier)
        return cls(
            identifier,
            *new[:8],
            UUID(new.dict_request_id) if new.dict_request_id else None,
            PENDING,
            now,
            now,
            None,
            None,
            1,
        )

    def dump(self) -> bytes:
        """As bytes that `load` reads: what a repeated request is answered with."""
        return json.dumps([_plain(value) for value in self]).encode()

    @classmethod
    def load(cls, data: bytes) -> "CidRecord":
        """The record that `dump` gave."""
        v = json.loads(data)
        times = (datetime.fromisoformat(at) if at else None for at in v[11:14])
        dict_request_id = UUID(v[9]) if v[9] else None
        return cls._make((UUID(v[0]), bytes.fromhex(v[1]), *v[2:9], dict_request_id, v[10], *times, *v[14:]))


class Reading(NamedTuple):
    """A record that was read, None when there is none, and the number of the server and database that said so."""

    record: CidRecord | None
    server: int


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value


class Selector(NamedTuple):
    """How a caller names one record: by its id, its cid, or its key at an ispb. Exactly one is there."""

    id: UUID | None = None
    cid: bytes | None = None
    key: tuple[str, str] | None = None


class CidFilter(NamedTuple):
    """Which records; None: any. Times are [after, before)."""

    ispb: str | None = None
    key_type: int | None = None
    sync_status: int | None = None
    tax_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


class CidChanges(NamedTuple):
    """New values for a record; `fields` names those that apply besides `cid`, in alphabetical order."""

    cid: bytes
    fields: tuple[str, ...]
    branch: str | None
    account_number: str
    account_type: int
    dict_request_id: str | None


class Page(NamedTuple):
    """Records, and the id from which the next page goes on; None on the last."""

    records: list[CidRecord]
    next_after: UUID | None


def single_ispb(ispbs: Iterable[str]) -> str | None:
    """Returns the ISPB that all records have in common, or None if there is no such ISPB."""
    distinct = set(ispbs)
    return distinct.pop() if len(distinct) == 1 else None
