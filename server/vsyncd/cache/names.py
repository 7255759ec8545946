"""The names that things have in Redis.

Of a record: PREFIX:kind:hmac, a keyed hash of what it is looked up by. CPFs and phone numbers can be guessed, so that
a plain hash would give them away. The secret is PostgreSQL's (cache_epoch): every instance over one database has the
same, and nobody has to configure it.
"""

import hashlib
import hmac
from typing import Final

CID: Final = "cid"
KEY: Final = "key"
ID: Final = "id"


class Names:
    """Names below a prefix. `one_slot`: for a cluster, where commands over several keys need them in one slot (the hash
    tag of Redis Cluster's specification)."""

    def __init__(self, prefix: str, *, one_slot: bool) -> None:
        self._prefix = f"{{{prefix}}}" if one_slot else prefix
        self.feed = f"{self._prefix}:feed".encode()
        self.channel = f"{self._prefix}:health".encode()

    def instance(self, instance: str) -> bytes:
        """What an instance says of its health."""
        return f"{self._prefix}:health:{instance}".encode()

    def record(self, kind: str, digest: bytes, secret: bytes) -> bytes:
        """A record looked up by `digest`, a cid's or id's bytes or `key_digest`."""
        code = hmac.digest(secret, kind.encode() + digest, "sha256")
        return f"{self._prefix}:{kind}:{code[:20].hex()}".encode()

    @staticmethod
    def claim(record: bytes) -> bytes:
        """Who loads a record, so that others need not."""
        return record + b":load"


def key_digest(key_value: str, ispb: str) -> bytes:
    """As the function cache_key of the migrations has it."""
    return hashlib.sha256(f"{key_value} {ispb}".encode()).digest()
