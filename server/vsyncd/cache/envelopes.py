"""What is stored of a record: a head, and the record as protobuf, encrypted when there is a key.

byte 0      the version of this form; another one is a miss
byte 1      VALUE or ERROR, plus ENCRYPTED
bytes 2-9   the stamp: the entry counts as long as the feed has it (feed.py)
the rest    16 bytes of the entry's name, and protobuf, or the reason of an error; encrypted: a nonce of 12 bytes, and
            AES-256-GCM over the rest, which binds the head and the name. So one entry cannot be taken for another.
"""

import os
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION: Final = 1
VALUE: Final = 0
ERROR: Final = 1
_ENCRYPTED: Final = 2
_HEAD: Final = 10
_NONCE: Final = 12
_OWNER: Final = 16


class Envelope(NamedTuple):
    """A value, or an error that the value's absence is. `stamp` is 8 bytes."""

    kind: int
    stamp: bytes
    payload: bytes


class Envelopes:
    """Seals and opens them. `key`: 32 bytes, None for no encryption."""

    def __init__(self, key: bytes | None) -> None:
        self._cipher = AESGCM(key) if key is not None else None
        flag = _ENCRYPTED if key is not None else 0
        self._heads = {kind: bytes((VERSION, kind | flag)) for kind in (VALUE, ERROR)}

    def seal(self, name: bytes, envelope: Envelope) -> bytes:
        """As it is stored under a name."""
        head = self._heads[envelope.kind] + envelope.stamp
        if self._cipher is None:
            return head + name[-_OWNER:] + envelope.payload
        nonce = os.urandom(_NONCE)
        return head + nonce + self._cipher.encrypt(nonce, envelope.payload, head + name)

    def open(self, name: bytes, data: bytes) -> Envelope | None:
        """None: another version's, another key's, or not one at all."""
        kind = next((kind for kind, head in self._heads.items() if data.startswith(head)), None)
        if kind is None or len(data) < _HEAD:
            return None
        stamp, payload = data[2:_HEAD], data[_HEAD:]
        if self._cipher is None:
            owner, payload = payload[:_OWNER], payload[_OWNER:]
            if owner != name[-_OWNER:]:
                return None
        else:
            try:
                payload = self._cipher.decrypt(payload[:_NONCE], payload[_NONCE:], data[:_HEAD] + name)
            except (InvalidTag, ValueError):
                return None
        return Envelope(kind, stamp, payload)
