"""The values in Redis: a header, and the record as protobuf, which is encrypted if a key is configured.

byte 0      the format version; an envelope of another version is a miss
byte 1      VALUE or ERROR, plus _ENCRYPTED
bytes 2-9   the stamp: the entry is valid while the watermark has the same stamp (watermark.py)
the rest    encrypted: a salt and a nonce of 12 bytes each, and the payload in AES-256-GCM
            plain: the first 16 bytes of an HMAC-SHA-256 with the epoch's secret, and the payload

The payload is protobuf or an error's reason. In both forms header, Redis key and payload are authenticated together: a
damaged envelope, or one under another key, is a miss.

Each envelope is encrypted with its own derived key, as in XAES-256-GCM (C2SP). Random 96-bit nonces alone suffice for
2^32 entries per key (NIST SP 800-38D, 8.3), which a busy cache reaches within months.
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
_HEADER_BYTES: Final = 10
_SALT_BYTES: Final = 12
_NONCE_BYTES: Final = 12
_CODE_BYTES: Final = 16


class Envelope(NamedTuple):
    """A record (VALUE), or the reason of the error for an absent record (ERROR). `stamp` has 8 bytes."""

    kind: int
    stamp: bytes
    payload: bytes


class Envelopes:
    """Seals and opens envelopes.

    `encryption_key` has 32 bytes; without it, envelopes are not encrypted. `secret` is the epoch's (see keys.py).
    """

    def __init__(self, encryption_key: bytes | None) -> None:
        self._encryption_key = encryption_key
        flag = _ENCRYPTED if encryption_key is not None else 0
        self._kinds = {bytes((VERSION, kind | flag)): kind for kind in (VALUE, ERROR)}
        self._prefixes = {kind: prefix for prefix, kind in self._kinds.items()}

    def seal(self, secret: bytes, key: bytes, envelope: Envelope) -> bytes:
        """Returns the value to store under a Redis key."""
        header = self._prefixes[envelope.kind] + envelope.stamp
        if self._encryption_key is None:
            return header + _code(secret, header + key + envelope.payload) + envelope.payload
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        cipher = _cipher(self._encryption_key, secret + salt)
        return header + salt + nonce + cipher.encrypt(nonce, envelope.payload, header + key)

    def open(self, secret: bytes, key: bytes, data: bytes) -> Envelope | None:
        """Returns the envelope, or None if it is damaged, or of another version, Redis key or encryption key."""
        kind = self._kinds.get(data[:2])
        if kind is None:
            return None
        header, rest = data[:_HEADER_BYTES], data[_HEADER_BYTES:]
        if self._encryption_key is None:
            code, payload = rest[:_CODE_BYTES], rest[_CODE_BYTES:]
            if not hmac.compare_digest(code, _code(secret, header + key + payload)):
                return None
        else:
            salt, rest = rest[:_SALT_BYTES], rest[_SALT_BYTES:]
            nonce, sealed = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
            try:
                payload = _cipher(self._encryption_key, secret + salt).decrypt(nonce, sealed, header + key)
            except (InvalidTag, ValueError):
                return None
        return Envelope(kind, header[2:], payload)


def _code(secret: bytes, content: bytes) -> bytes:
    # All keys of a prefix and kind have one length, so different headers, keys and payloads never concatenate alike.
    return hmac.digest(secret, content, "sha256")[:_CODE_BYTES]


def _cipher(encryption_key: bytes, context: bytes) -> AESGCM:
    # HKDF-Expand (RFC 5869, 2.3) for one block. The key is random, so HKDF-Extract is not needed.
    return AESGCM(hmac.digest(encryption_key, b"vsyncd cache" + context + b"\1", "sha256"))
