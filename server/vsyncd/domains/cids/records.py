"""Records of CIDs. Enumerations are the numbers of the enums of vsync.v1."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from vsyncd.core.ids import time_of

PENDING: Final = 1
SYNCED: Final = 2
FAILED: Final = 3


class NewCid(NamedTuple):
    """A validated record of a request. `cid` has 32 bytes; `dict_request_id` is a UUID in lower case."""

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
    """A stored record. Its fields are the columns of the table cids, as queries select them (CID_COLUMNS)."""

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
        """Returns the record that a creation with this id stores. Its times are the id's."""
        now = time_of(identifier)
        dict_request_id = UUID(new.dict_request_id) if new.dict_request_id else None
        return cls(identifier, *new[:8], dict_request_id, PENDING, now, now, None, None, 1)

    def dump(self) -> bytes:
        """Returns the record as bytes, from which a repeated request is answered."""
        return json.dumps([_json_value(value) for value in self]).encode()

    @classmethod
    def load(cls, data: bytes) -> "CidRecord":
        """Returns the record that `dump` encoded."""
        values = dict(zip(cls._fields, json.loads(data), strict=True))
        for name, decode in _DECODERS.items():
            values[name] = decode(values[name]) if values[name] is not None else None
        return cls(**values)


CID_COLUMNS: Final = ", ".join(CidRecord._fields)
_DECODERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "id": UUID,
    "cid": bytes.fromhex,
    "dict_request_id": UUID,
    "created_at": datetime.fromisoformat,
    "updated_at": datetime.fromisoformat,
    "synced_at": datetime.fromisoformat,
}


class ReadResult(NamedTuple):
    """The record that was read, or None, and the number of the server and database that it was read from."""

    record: CidRecord | None
    server: int


def _json_value(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value


class Selector(NamedTuple):
    """Identifies one record by its id, its cid, or its key and ispb. Exactly one is given."""

    id: UUID | None = None
    cid: bytes | None = None
    key: tuple[str, str] | None = None


class CidFilter(NamedTuple):
    """Selects records; None matches any value. The time range is [created_after, created_before)."""

    ispb: str | None = None
    key_type: int | None = None
    sync_status: int | None = None
    tax_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


class CidChanges(NamedTuple):
    """New values for a record. `fields` names those to change besides `cid`, in alphabetical order."""

    cid: bytes
    fields: tuple[str, ...]
    branch: str | None
    account_number: str
    account_type: int
    dict_request_id: str | None


class Page(NamedTuple):
    """Records, and the id after which the next page starts, or None on the last page."""

    records: list[CidRecord]
    next_after: UUID | None
