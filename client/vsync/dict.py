"""CIDs and VSyncs, as the central bank's directory (DICT) defines them.

Source: the DICT API specification, section on reconciliation. The module is named after the directory.
"""

import hmac
import re
from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

CID_BYTES = 32
_CID = re.compile(r"[0-9a-fA-F]{64}")
ZERO_VSYNC = "0" * (2 * CID_BYTES)


class Entry(NamedTuple):
    """The attributes of a directory entry that its CID covers. None and the empty string are the same: absent."""

    key_type: str
    """CPF, CNPJ, PHONE, EMAIL or EVP."""
    key: str
    owner_tax_id: str
    owner_name: str
    owner_trade_name: str | None
    """Of a company; absent for a person."""
    participant: str
    """The ISPB."""
    branch: str | None
    account_number: str
    account_type: str
    """CACC, SVGS, TRAN or SLRY."""


def compute_cid(entry: Entry, request_id: UUID | str | bytes) -> str:
    """The entry's content identifier: 64 lowercase hexadecimal digits.

    request_id names the call that created the entry: a UUID, its text, or its 16 bytes. The CID is the HMAC-SHA-256,
    keyed with those bytes, of the attributes in their order, UTF-8, joined by "&", an absent one empty.
    Raises ValueError for a request_id that is no UUID.
    """
    if isinstance(request_id, str):
        request_id = UUID(request_id)
    key = request_id.bytes if isinstance(request_id, UUID) else request_id
    if len(key) != 16:
        raise ValueError("a request id has 16 bytes")
    return hmac.digest(key, "&".join(part or "" for part in entry).encode(), "sha256").hex()


def vsync_of(cids: Iterable[bytes | str]) -> str:
    """The VSync of a set of CIDs: their bitwise XOR, 64 lowercase hexadecimal digits; 64 zeros for no CIDs.

    Takes CIDs as 32 bytes or as 64 hexadecimal digits. Order does not matter; a CID given twice cancels itself out.
    Raises ValueError for anything else.
    """
    total = 0
    for cid in cids:
        total ^= _number(cid)
    return f"{total:0{2 * CID_BYTES}x}"


def xor(vsync: bytes | str, *cids: bytes | str) -> str:
    """A VSync after some CIDs came or went: adding and removing are the same operation. Raises ValueError."""
    return vsync_of((vsync, *cids))


def _number(cid: bytes | str) -> int:
    if isinstance(cid, str):
        # int() alone would take signs, blanks and underscores.
        if not _CID.fullmatch(cid):
            raise ValueError("a CID is 64 hexadecimal digits")
        return int(cid, 16)
    if len(cid) != CID_BYTES:
        raise ValueError("a CID is 32 bytes")
    return int.from_bytes(cid)
