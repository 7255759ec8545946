"""The format of keys and values in Redis.

A record's key is PREFIX:kind:hmac. The last part is a keyed hash of what the record is looked up by: CPFs and phone
numbers can be guessed, so a plain hash would reveal them. The secret is stored in PostgreSQL (cache_epoch), so that
every instance over one database has the same secret without configuration.

Releases that store records or watermarks in different formats use different keys for both. During a rolling upgrade
neither release reads entries that it does not understand, deletes entries in vain, or advances a watermark past entries
that it has not deleted.

A value has a header, and the record as protobuf, which is encrypted if a key is configured.

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

import hashlib
import hmac
import os
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto

# The kinds of lookups.
CID: Final = "cid"
KEY: Final = "key"
ID: Final = "id"
# The version of everything but the record's message: keys, envelopes and watermarks. Raise it with each change.
_LAYOUT_VERSION: Final = 3

# The format version of values.
VERSION: Final = 2
VALUE: Final = 0
ERROR: Final = 1
_ENCRYPTED: Final = 2
_HEADER_BYTES: Final = 10
_SALT_BYTES: Final = 12
_NONCE_BYTES: Final = 12
_CODE_BYTES: Final = 16


class RedisKeys:
    """The keys below a prefix.

    `format_id` identifies the storage format. `one_slot`: for a cluster, where commands over several keys need them in
    one slot (the hash tag of the cluster specification).
    """

    def __init__(self, prefix: str, *, format_id: str, one_slot: bool) -> None:
        self._format_id = format_id.encode()
        self._prefix = f"{{{prefix}}}" if one_slot else prefix
        self.watermark = f"{self._prefix}:feed:{format_id}".encode()
        self.channel = f"{self._prefix}:health".encode()

    def of_domain(self, domain: str, *parts: str) -> bytes:
        """Returns a key or a channel of a domain."""
        return ":".join((self._prefix, domain, *parts)).encode()

    def instance(self, instance: str) -> bytes:
        return f"{self._prefix}:health:{instance}".encode()

    def record(self, kind: str, digest: bytes, secret: bytes) -> bytes:
        """Returns the key of a record. `digest` is the bytes of its CID or id, or its `key_digest`."""
        code = hmac.digest(secret, self._format_id + kind.encode() + digest, "sha256")
        return f"{self._prefix}:{kind}:{code[:20].hex()}".encode()

    @staticmethod
    def claim(record: bytes) -> bytes:
        """Returns the key that an instance sets while it loads a record, so that the others wait."""
        return record + b":load"


def storage_format_id(message: Descriptor) -> str:
    """Returns a hash of the record's fields and the layout version. Releases with equal hashes share entries."""
    fields = DescriptorProto()
    message.CopyToProto(fields)
    content = b"%d %b" % (_LAYOUT_VERSION, fields.SerializeToString(deterministic=True))
    return hashlib.sha256(content).hexdigest()[:8]


def key_digest(key_value: str, ispb: str) -> bytes:
    """Returns the digest of a key, like the function cache_key of the migrations."""
    return hashlib.sha256(f"{key_value} {ispb}".encode()).digest()


class Envelope(NamedTuple):
    """A record (VALUE), or the reason of the error for an absent record (ERROR). `stamp` has 8 bytes."""

    kind: int
    stamp: bytes
    payload: bytes


class Envelopes:
    """Seals and opens envelopes.

    `encryption_key` has 32 bytes; without it, envelopes are not encrypted. Envelopes of `former_keys` are opened, too.
    `secret` is the epoch's (see above).
    """

    def __init__(self, encryption_key: bytes | None = None, *former_keys: bytes) -> None:
        self.use(encryption_key, *former_keys)

    def use(self, encryption_key: bytes | None = None, *former_keys: bytes) -> None:
        """Uses other keys from now on."""
        self._encryption_key = encryption_key
        self._decryption_keys = (encryption_key, *former_keys) if encryption_key is not None else ()
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
            opened = self._decrypt(secret + salt, nonce, sealed, header + key)
            if opened is None:
                return None
            payload = opened
        return Envelope(kind, header[2:], payload)

    def _decrypt(self, context: bytes, nonce: bytes, sealed: bytes, authenticated: bytes) -> bytes | None:
        """Returns the payload, or None if no key opens it."""
        for encryption_key in self._decryption_keys:
            try:
                return _cipher(encryption_key, context).decrypt(nonce, sealed, authenticated)
            except (InvalidTag, ValueError):
                continue
        return None


def _code(secret: bytes, content: bytes) -> bytes:
    # All keys of a prefix and kind have one length, so different headers, keys and payloads never concatenate alike.
    return hmac.digest(secret, content, "sha256")[:_CODE_BYTES]


def _cipher(encryption_key: bytes, context: bytes) -> AESGCM:
    # HKDF-Expand (RFC 5869, 2.3) for one block. The key is random, so HKDF-Extract is not needed.
    return AESGCM(hmac.digest(encryption_key, b"vsyncd cache" + context + b"\1", "sha256"))
