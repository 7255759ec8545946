"""Rows in PostgreSQL's binary COPY format (its manual, COPY, "Binary Format"), packed by hand.

psycopg's own row writer adapts value by value; an import would spend most of its time there.
"""

from collections.abc import Iterable
from struct import Struct
from typing import Final

from vsyncd.cids.records import SYNCED, NewCid

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


def copy_data(rows: Iterable[bytes]) -> bytes:
    """The whole input of a COPY of the query copy_in."""
    return b"".join((_HEADER, *rows, _TRAILER))


def pack_row(identifier: bytes, new: NewCid, *, sync_status: int) -> bytes:
    """A row, in the order of columns of the query copy_in."""
    at = (int.from_bytes(identifier[:6], "big") - _POSTGRES_EPOCH_MS) * 1_000
    return b"".join(
        (
            _front(_COLUMNS, 16, identifier, 8, at, 8, at),
            _timestamp(8, at) if sync_status == SYNCED else _NULL,
            _middle(2, new.key_type, 2, new.account_type, 2, sync_status, 32, new.cid),
            _text(new.key_value),
            _text(new.ispb),
            _text(new.branch),
            _text(new.account_number),
            _text(new.tax_id),
            _uuid(new.dict_request_id),
        )
    )


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    data = value.encode()
    return _length(len(data)) + data


def _uuid(value: str | None) -> bytes:
    return _NULL if value is None else b"\0\0\0\x10" + bytes.fromhex(value.replace("-", ""))
