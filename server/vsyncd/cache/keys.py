"""The keys in Redis.

A record's key is PREFIX:kind:hmac. The last part is a keyed hash of what the record is looked up by: CPFs and phone
numbers can be guessed, so a plain hash would reveal them. The secret is stored in PostgreSQL (cache_epoch), so that
every instance over one database has the same secret without configuration.

Releases that store records or watermarks in different formats use different keys for both. During a rolling upgrade
neither release reads entries that it does not understand, deletes entries in vain, or advances a watermark past entries
that it has not deleted.
"""

import hashlib
import hmac
from typing import Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto

# The kinds of lookups.
CID: Final = "cid"
KEY: Final = "key"
ID: Final = "id"
# The version of everything but the record's message: keys, envelopes and watermarks. Raise it with each change.
_LAYOUT_VERSION: Final = 3


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
        """Returns the key of an instance's health."""
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
