"""Rows in PostgreSQL's binary COPY format (its manual, COPY, "Binary Format"), packed by hand.

psycopg's own row writer adapts value by value; an import would spend most of its time there.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final
from uuid import UUID

from vsyncd.cids.records import SYNCED, NewCid
from vsyncd.ids import milliseconds_of

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
# PostgreSQL counts microseconds from 2000-01-01 UTC.
_POSTGRES_EPOCH_MS: Final = 946_684_800_000

_COLUMNS: Final = 14
# id, created_at, updated_at: each behind its length.
_front = Struct("!hi16siqiq").pack
_timestamp = Struct("!iq").pack
# key_type, account_type, sync_status, cid
_middle = Struct("!ihihihi32s").pack
_length = Struct("!i").pack


def copy_data(identifiers: Sequence[UUID], news: Sequence[NewCid], *, sync_status: int) -> bytes:
    """The whole input of a COPY of the query copy_in, in its order of columns."""
    parts = [_HEADER]
    for identifier, new in zip(identifiers, news, strict=True):
        at = (milliseconds_of(identifier) - _POSTGRES_EPOCH_MS) * 1_000
        parts += (
            _front(_COLUMNS, 16, identifier.bytes, 8, at, 8, at),
            _timestamp(8, at) if sync_status == SYNCED else _NULL,
            _middle(2, new.key_type, 2, new.account_type, 2, sync_status, 32, new.cid),
            _text(new.key_value),
            _text(new.ispb),
            _text(new.branch),
            _text(new.account_number),
            _text(new.tax_id),
            _uuid(new.dict_request_id),
        )
    parts.append(_TRAILER)
    return b"".join(parts)


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    data = value.encode()
    return _length(len(data)) + data


def _uuid(value: str | None) -> bytes:
    return _NULL if value is None else b"\0\0\0\x10" + bytes.fromhex(value.replace("-", ""))
