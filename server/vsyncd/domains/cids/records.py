"""Records of CIDs. Enumerations are the numbers of the enums of vsync.v1."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.core.ids import time_of
from vsyncd.core.scope import Scope
from vsyncd.core.validation import MAX_ERROR_CHARS, MAX_KEY_CHARS
from vsyncd.postgres.mutations import AnswerCodec
from vsyncd.postgres.tables import RecordTable

PENDING: Final = 1
SYNCED: Final = 2
FAILED: Final = 3

MAX_BRANCH_CHARS: Final = 10
MAX_ACCOUNT_CHARS: Final = 20


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
        return _CID_RECORD.encode(self)

    @classmethod
    def load(cls, data: bytes) -> "CidRecord":
        return _CID_RECORD.decode(data)


CID_COLUMNS: Final = ", ".join(CidRecord._fields)
_CID_RECORD: Final = AnswerCodec(CidRecord)


class ReadResult(NamedTuple):
    """The record that was read, or None, and the number of the server and database that it was read from."""

    record: CidRecord | None
    server: int


class Selector(NamedTuple):
    """Identifies one record by its id, its cid, or its key and ispb. Exactly one is given."""

    id: UUID | None = None
    cid: bytes | None = None
    key: tuple[str, str] | None = None


class CidFilter(NamedTuple):
    """Selects records; None matches any value. The time range is [created_after, created_before).

    `ispbs` are the participants of a restricted scope, if `ispb` is None. A request does not contain them.
    """

    ispb: str | None = None
    key_type: int | None = None
    sync_status: int | None = None
    tax_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    ispbs: list[str] | None = None

    def within(self, scope: Scope) -> "CidFilter":
        """Returns the filter, restricted to a scope. Raises IspbDenied."""
        ispb, ispbs = scope.narrow(self.ispb)
        return self._replace(ispb=ispb, ispbs=ispbs)


class CidChanges(NamedTuple):
    """New values for a record. `fields` names those to change besides `cid`, in alphabetical order."""

    cid: bytes
    fields: tuple[str, ...]
    branch: str | None
    account_number: str
    account_type: int
    dict_request_id: str | None


def single_ispb(ispbs: Iterable[str]) -> str | None:
    """Returns the ISPB that all records have in common, or None if there is no such ISPB."""
    distinct = set(ispbs)
    return distinct.pop() if len(distinct) == 1 else None


TABLES: Final = (
    RecordTable(
        CidRecord,
        "cids",
        max_chars={
            "key_value": MAX_KEY_CHARS,
            "branch": MAX_BRANCH_CHARS,
            "account_number": MAX_ACCOUNT_CHARS,
            "last_error": MAX_ERROR_CHARS,
        },
    ),
)
