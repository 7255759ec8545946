"""What is stored of a record: a head, and the record as protobuf, encrypted when there is a key.

byte 0      the version of this form; another one is a miss
byte 1      VALUE or ERROR, plus ENCRYPTED
bytes 2-9   the stamp: the entry counts as long as the feed has it (feed.py)
the rest    encrypted: a salt and a nonce of 12 bytes each, and AES-256-GCM of protobuf, or of the reason of an error;
            plain: the first 16 bytes of an HMAC-SHA-256 by the epoch's secret, and the same

Either way head, name and content are bound to each other: what was damaged, or stands under another name, is a miss.

Each envelope is encrypted by a key of its own, as XAES-256-GCM (C2SP) does it: random nonces of 96 bits alone would do
for 2^32 entries of one key (NIST SP 800-38D, 8.3), which a busy cache has within months.
"""

import hmac
import os
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION: Final = 2
VALUE: Final = 0
ERROR: Final = 1
_ENCRYPTED: Final = 2
_HEAD: Final = 10
_SALT: Final = 12
_NONCE: Final = 12
_CODE: Final = 16


class Envelope(NamedTuple):
    """A value, or an error that the value's absence is. `stamp` is 8 bytes."""

    kind: int
    stamp: bytes
    payload: bytes


class Envelopes:
    """Seals and opens them. `key`: 32 bytes, None for no encryption. `secret` is that of the epoch (names.py)."""

    def __init__(self, key: bytes | None) -> None:
        self._key = key
        flag = _ENCRYPTED if key is not None else 0
        self._heads = {bytes((VERSION, kind | flag)): kind for kind in (VALUE, ERROR)}
        self._head_of = {kind: head for head, kind in self._heads.items()}

    def seal(self, secret: bytes, name: bytes, envelope: Envelope) -> bytes:
        """As it is stored under a name."""
        head = self._head_of[envelope.kind] + envelope.stamp
        if self._key is None:
            return head + _code(secret, head + name + envelope.payload) + envelope.payload
        salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
        return head + salt + nonce + _cipher(self._key, secret + salt).encrypt(nonce, envelope.payload, head + name)

    def open(self, secret: bytes, name: bytes, data: bytes) -> Envelope | None:
        """None: another version's, another key's, damaged, or not one at all."""
        kind = self._heads.get(data[:2])
        if kind is None:
            return None
        head, rest = data[:_HEAD], data[_HEAD:]
        if self._key is None:
            code, payload = rest[:_CODE], rest[_CODE:]
            if not hmac.compare_digest(code, _code(secret, head + name + payload)):
                return None
        else:
            salt, nonce, sealed = rest[:_SALT], rest[_SALT : _SALT + _NONCE], rest[_SALT + _NONCE :]
            try:
                payload = _cipher(self._key, secret + salt).decrypt(nonce, sealed, head + name)
            except (InvalidTag, ValueError):
                return None
        return Envelope(kind, head[2:], payload)


def _code(secret: bytes, content: bytes) -> bytes:
    # Below their prefix and kind all names have one length: no other head, name and payload read alike.
    return hmac.digest(secret, content, "sha256")[:_CODE]


def _cipher(key: bytes, context: bytes) -> AESGCM:
    # HKDF-Expand (RFC 5869, 2.3) for one block; the key is random, and needs no extraction.
    return AESGCM(hmac.digest(key, b"vsyncd cache" + context + b"\1", "sha256"))
