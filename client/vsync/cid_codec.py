"""Packed CIDs: 32 bytes each, one after the other. What is done with many of them is done here, without a loop."""

from collections.abc import Iterable

CID_BYTES = 32


def xor_of(packed: bytes) -> int:
    """The XOR of packed CIDs, as a number; 0 for none. Raises ValueError when a part of one is left over.

    A block is one long number, XORed with itself by halves: the work is C's, and a million CIDs take milliseconds.
    """
    count, rest = divmod(len(packed), CID_BYTES)
    if rest:
        raise ValueError("packed CIDs are 32 bytes each")
    total = int.from_bytes(packed)
    while count > 1:
        half = (count + 1) // 2
        shift = half * CID_BYTES * 8
        high = total >> shift
        total ^= high << shift  # what is left is the low half
        total ^= high
        count = half
    return total


def unpacked(packed: bytes) -> list[bytes]:
    """The CIDs of a block, each by itself."""
    return [packed[at : at + CID_BYTES] for at in range(0, len(packed), CID_BYTES)]


def pack(cids: Iterable[bytes | str]) -> bytes:
    """CIDs, as 32 bytes or as 64 hexadecimal digits, packed. Raises ValueError for anything else."""
    members = list(cids)
    if {type(cid) for cid in members} <= {bytes}:
        return _joined_bytes(members)  # type: ignore[arg-type]  # looked at in the line above
    if {type(cid) for cid in members} <= {str}:
        return _joined_text(members)  # type: ignore[arg-type]  # as above
    return b"".join(_joined_text([cid]) if isinstance(cid, str) else _joined_bytes([bytes(cid)]) for cid in members)


def _joined_bytes(cids: list[bytes]) -> bytes:
    if not set(map(len, cids)) <= {CID_BYTES}:
        raise ValueError("a CID is 32 bytes")
    return b"".join(cids)


def _joined_text(cids: list[str]) -> bytes:
    try:
        packed = bytes.fromhex("".join(cids)) if set(map(len, cids)) <= {2 * CID_BYTES} else b""
    except ValueError:
        packed = b""
    # fromhex passes over blanks, and then there are fewer bytes than there should be.
    if len(packed) != len(cids) * CID_BYTES:
        raise ValueError("a CID is 64 hexadecimal digits")
    return packed
