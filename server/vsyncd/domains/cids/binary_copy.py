"""Encodes CIDs in PostgreSQL's binary COPY format (PostgreSQL manual, COPY, "Binary Format").

psycopg's row writer adapts each value separately: an import would spend most of its time there.
"""

from collections.abc import Iterable
from struct import Struct
from typing import Final

from vsyncd.domains.cids.records import SYNCED, NewCid

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
# PostgreSQL counts microseconds since 2000-01-01 UTC.
_POSTGRES_EPOCH_MS: Final = 946_684_800_000

_COLUMNS: Final = 14
# Number of columns; id, created_at, updated_at. A length precedes each value.
_first_columns = Struct("!hi16siqiq").pack
_timestamp = Struct("!iq").pack
# key_type, account_type, sync_status, cid
_fixed_columns = Struct("!ihihihi32s").pack
# The encoded lengths of texts, which have at most 255 bytes.
_LENGTHS: Final = tuple(Struct("!i").pack(length) for length in range(256))
_UUID_LENGTH: Final = _LENGTHS[16]


def copy_data(rows: Iterable[bytes]) -> bytes:
    """Returns the complete input of the query copy_in."""
    return b"".join((_HEADER, *rows, _TRAILER))


def pack_row(identifier: bytes, new: NewCid, *, sync_status: int) -> bytes:
    """Returns a row, with the columns in the order of the query copy_in.

    Not factored into functions: an import spends much of its time here.
    """
    cid, key_type, key_value, ispb, branch, account_number, account_type, tax_id, dict_request_id = new
    at = (int.from_bytes(identifier[:6], "big") - _POSTGRES_EPOCH_MS) * 1_000
    # All texts are ASCII, so their length in characters is their length in bytes.
    return b"".join(
        (
            _first_columns(_COLUMNS, 16, identifier, 8, at, 8, at),
            _timestamp(8, at) if sync_status == SYNCED else _NULL,
            _fixed_columns(2, key_type, 2, account_type, 2, sync_status, 32, cid),
            _LENGTHS[len(key_value)],
            key_value.encode("ascii"),
            _LENGTHS[len(ispb)],
            ispb.encode("ascii"),
            _NULL if branch is None else _LENGTHS[len(branch)] + branch.encode("ascii"),
            _LENGTHS[len(account_number)],
            account_number.encode("ascii"),
            _LENGTHS[len(tax_id)],
            tax_id.encode("ascii"),
            _NULL if dict_request_id is None else _UUID_LENGTH + bytes.fromhex(dict_request_id.replace("-", "")),
        )
    )
