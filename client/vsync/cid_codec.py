"""Packed CIDs: 32 bytes each, concatenated. Operations on many CIDs avoid Python loops."""

from collections.abc import Iterable

CID_BYTES = 32


def xor_of(packed: bytes) -> int:
    """Returns the XOR of packed CIDs as a number; 0 for none. Raises ValueError if the length is not a multiple of 32.

    The block is one long number that is split in halves, which are XORed, until one CID is left. A million CIDs take
    milliseconds, since all of the work is done by C code.
    """
    count, rest = divmod(len(packed), CID_BYTES)
    if rest:
        raise ValueError("packed CIDs must have 32 bytes each")
    total = int.from_bytes(packed)
    while count > 1:
        half = (count + 1) // 2
        shift = half * CID_BYTES * 8
        high = total >> shift
        total ^= high << shift  # clears the high half
        total ^= high
        count = half
    return total


def unpack(packed: bytes) -> list[bytes]:
    """Returns the CIDs of a block."""
    return [packed[start : start + CID_BYTES] for start in range(0, len(packed), CID_BYTES)]


def pack(cids: Iterable[bytes | str]) -> bytes:
    """Returns CIDs, each 32 bytes or 64 hexadecimal digits, as packed CIDs. Raises ValueError for anything else."""
    members = list(cids)
    if {type(cid) for cid in members} <= {bytes}:
        return _joined_bytes(members)  # type: ignore[arg-type]  # checked above
    if {type(cid) for cid in members} <= {str}:
        return _joined_text(members)  # type: ignore[arg-type]  # checked above
    return b"".join(_joined_text([cid]) if isinstance(cid, str) else _joined_bytes([bytes(cid)]) for cid in members)


def _joined_bytes(cids: list[bytes]) -> bytes:
    if not set(map(len, cids)) <= {CID_BYTES}:
        raise ValueError("a CID must have 32 bytes")
    return b"".join(cids)


def _joined_text(cids: list[str]) -> bytes:
    packed = from_hex("".join(cids), len(cids)) if set(map(len, cids)) <= {2 * CID_BYTES} else b""
    if len(packed) != len(cids) * CID_BYTES:
        raise ValueError("a CID must have 64 hexadecimal digits")
    return packed


def from_hex(digits: str, count: int) -> bytes:
    """Returns `count` packed CIDs, or nothing if `digits` are not exactly their hexadecimal digits."""
    try:
        packed = bytes.fromhex(digits) if len(digits) == 2 * count * CID_BYTES else b""
    except ValueError:
        return b""
    # fromhex ignores blanks, and then returns fewer bytes.
    return packed if len(packed) == count * CID_BYTES else b""
