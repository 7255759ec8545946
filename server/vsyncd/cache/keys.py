"""The names that things have in Redis.

Of a record: PREFIX:kind:hmac, a keyed hash of what it is looked up by. CPFs and phone numbers can be guessed, so that
a plain hash would give them away. The secret is PostgreSQL's (cache_epoch): every instance over one database has the
same, and nobody has to configure it.

Releases whose records or places differ in form have names of their own for both: while one follows the other, neither
reads what it does not understand, nor takes out in vain, nor moves a place behind which the other still has something.
"""

import hashlib
import hmac
from typing import Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto

CID: Final = "cid"
KEY: Final = "key"
ID: Final = "id"
# Of what is kept beside the records' own form: names, envelopes, the place. To be raised with any of them.
_LAYOUT: Final = 3


class RedisKeys:
    """Names below a prefix. `form`: the records' (form_of). `one_slot`: for a cluster, where commands over several
    keys need them in one slot (the hash tag of its specification)."""

    def __init__(self, prefix: str, *, form: str, one_slot: bool) -> None:
        self._form = form.encode()
        self._prefix = f"{{{prefix}}}" if one_slot else prefix
        self.feed = f"{self._prefix}:feed:{form}".encode()
        self.channel = f"{self._prefix}:health".encode()

    def instance(self, instance: str) -> bytes:
        """What an instance says of its health."""
        return f"{self._prefix}:health:{instance}".encode()

    def record(self, kind: str, digest: bytes, secret: bytes) -> bytes:
        """A record looked up by `digest`, a cid's or id's bytes or `key_digest`."""
        code = hmac.digest(secret, self._form + kind.encode() + digest, "sha256")
        return f"{self._prefix}:{kind}:{code[:20].hex()}".encode()

    @staticmethod
    def claim(record: bytes) -> bytes:
        """Who loads a record, so that others need not."""
        return record + b":load"


def form_of(message: Descriptor) -> str:
    """What releases have to have in common to read each other's records: their fields, and the layout around them."""
    fields = DescriptorProto()
    message.CopyToProto(fields)
    content = b"%d %b" % (_LAYOUT, fields.SerializeToString(deterministic=True))
    return hashlib.sha256(content).hexdigest()[:8]


def key_digest(key_value: str, ispb: str) -> bytes:
    """As the function cache_key of the migrations has it."""
    return hashlib.sha256(f"{key_value} {ispb}".encode()).digest()
