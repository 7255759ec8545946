"""CIDs and VSyncs, as the central bank's directory (DICT) defines them.

Source: the DICT API specification, section on reconciliation. The module is named after the directory.
"""

from collections.abc import Iterable
from hashlib import sha256
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from vsync.cid_codec import CID_BYTES, pack, xor_of

ZERO_VSYNC = "0" * (2 * CID_BYTES)
_BLOCK = 10_000
# HMAC's pads (RFC 2104): hmac.digest takes twice as long for a message of this size as the two hashes themselves.
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_INNER_REST, _OUTER_REST = b"\x36" * 48, b"\x5c" * 48


class Entry(NamedTuple):
    """The attributes of a directory entry that its CID covers.

    Where one may be absent, None and the empty string are the same.
    """

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
    Raises ValueError for a request_id that is no UUID, TypeError for an attribute that is no text.

    Half of its time are the two SHA-256: a core computes 600,000 a second from ids in bytes, and processes
    add up, each over its part of the entries (docs/reconciliation.md).
    """
    if isinstance(request_id, bytes):
        key = request_id
    else:
        key = (UUID(request_id) if isinstance(request_id, str) else request_id).bytes
    if len(key) != 16:
        raise ValueError("a request id has 16 bytes")
    # Taken apart by hand: a loop that looks for None takes three times as long.
    key_type, key_value, tax_id, name, trade_name, participant, branch, account, account_type = entry
    message = "&".join(
        (key_type, key_value, tax_id, name, trade_name or "", participant, branch or "", account, account_type)
    )
    inner = sha256(key.translate(_INNER) + _INNER_REST + message.encode()).digest()
    return sha256(key.translate(_OUTER) + _OUTER_REST + inner).hexdigest()


def vsync_of(cids: Iterable[bytes | str]) -> str:
    """The VSync of a set of CIDs: their bitwise XOR, 64 lowercase hexadecimal digits; 64 zeros for no CIDs.

    Takes CIDs as 32 bytes or as 64 hexadecimal digits. Order does not matter; a CID given twice cancels itself out.
    Raises ValueError for anything else.
    """
    total = 0
    rest = iter(cids)
    while block := list(islice(rest, _BLOCK)):
        total ^= xor_of(pack(block))
    return vsync_text(total)


def vsync_text(number: int) -> str:
    """A VSync that was added up as a number (vsync.packed.xor_of), as its 64 digits."""
    return f"{number:0{2 * CID_BYTES}x}"


def xor(vsync: bytes | str, *cids: bytes | str) -> str:
    """A VSync after some CIDs came or went: adding and removing are the same operation. Raises ValueError."""
    return vsync_of((vsync, *cids))
