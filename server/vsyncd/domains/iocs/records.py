"""Records of IOCs."""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from hashlib import blake2b
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.core.errors import Aborted, NotFound
from vsyncd.core.tenants import Tenant
from vsyncd.postgres.tables import RecordTable

MAX_VALUE_CHARS: Final = 2_048
MAX_CONFIDENCE: Final = 100
MAX_SOURCE_CHARS: Final = 100
MAX_TAGS: Final = 10
MAX_TAG_CHARS: Final = 50
MAX_TTL: Final = timedelta(days=400)


class IocType(IntEnum):
    """The values of the table and of the message."""

    IPV4 = 1
    IPV6 = 2
    DOMAIN = 3
    URL = 4
    EMAIL = 5
    SHA256 = 6
    SHA1 = 7
    MD5 = 8


class IocKey(NamedTuple):
    """What identifies an IOC of a tenant. The value is in canonical form."""

    type: int
    value: str


class NewIoc(NamedTuple):
    """A validated IOC of a caller. `revision` is the one that it replaces: 0 for none, None for any."""

    type: int
    value: str
    confidence: int
    source: str
    tags: tuple[str, ...]
    ttl_us: int
    revision: int | None


class Ioc(NamedTuple):
    """A stored IOC, as queries select it (COLUMNS)."""

    type: int
    value: str
    confidence: int
    source: str
    tags: list[str]
    revision: int
    created_at: datetime
    expires_at: datetime
    audit_id: UUID


COLUMNS: Final = ", ".join(Ioc._fields)


class PutOutcome(NamedTuple):
    """What storing an IOC has determined."""

    revision: int
    created_at: datetime
    expires_at: datetime

    @property
    def is_new(self) -> bool:
        return self.revision == 1


class IocFilter(NamedTuple):
    """What a list selects. `type` 0: all types; an empty source or tag: all."""

    type: int
    source: str
    tag: str
    min_confidence: int


class IocPage(NamedTuple):
    """IOCs, and the key after which the next page begins, or None on the last page."""

    iocs: Sequence[Ioc]
    next_after: IocKey | None


class IocNotFound(NotFound):
    """The tenant has no such IOC, or it has expired."""

    def __init__(self) -> None:
        super().__init__("IOC_NOT_FOUND", "The IOC does not exist.")


def check_replaced(expected: int | None, found: int, index: int | None = None) -> None:
    """Raises Aborted (REVISION_MISMATCH) unless the replaced revision, or 0, is the expected one.

    `index` is the position in a batch.
    """
    if expected not in {None, found}:
        metadata = {"revision": str(found)} | ({} if index is None else {"index": str(index)})
        raise Aborted("REVISION_MISMATCH", "The IOC has another revision.", metadata=metadata)


def audit_key(tenant: Tenant, key: IocKey) -> str:
    """Returns what identifies an IOC in the audit trail. The value cannot be computed from it without the tenant."""
    return blake2b(f"{key.type}:{key.value}".encode(), key=tenant, digest_size=16).hexdigest()


# The stored answer of a request: the id of its audit entry, and the outcome of each IOC with times in microseconds.
_OUTCOME: Final = struct.Struct("!qqq")
_ID_BYTES: Final = 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class PutAnswer(NamedTuple):
    """The result of a put: the id of its audit entry, and an outcome for each IOC."""

    audit_id: UUID
    outcomes: Sequence[PutOutcome]

    def encode(self) -> bytes:
        """Returns the bytes from which `decode` creates an equal answer."""
        parts = (
            _OUTCOME.pack(each.revision, _microseconds(each.created_at), _microseconds(each.expires_at))
            for each in self.outcomes
        )
        return self.audit_id.bytes + b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> "PutAnswer":
        """Returns the answer of `encode`."""
        outcomes = [
            PutOutcome(revision, _EPOCH + created_at * _MICROSECOND, _EPOCH + expires_at * _MICROSECOND)
            for revision, created_at, expires_at in _OUTCOME.iter_unpack(data[_ID_BYTES:])
        ]
        return cls(UUID(bytes=data[:_ID_BYTES]), outcomes)


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


TABLES: Final = (RecordTable(Ioc, "iocs", max_chars={"value": MAX_VALUE_CHARS, "source": MAX_SOURCE_CHARS}),)
