"""Records of reconciliation. VSyncs and CIDs have 32 bytes; enumerations are the numbers of the enums of vsync.v1."""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.core.context import MAX_ACTOR_CHARS
from vsyncd.postgres.tables import RecordTable

KEY_TYPES: Final = range(1, 6)
OK: Final = 1
NOK: Final = 2
ADDED: Final = 1
REMOVED: Final = 2
MAX_VERIFICATION_ID_CHARS: Final = 100


class Group(NamedTuple):
    """Identifies a set of CIDs: those of one key type of one participant."""

    ispb: str
    key_type: int


class Vsync(NamedTuple):
    """The XOR of the CIDs of a group, and their number."""

    ispb: str
    key_type: int
    vsync: bytes
    size: int


class NewVsyncVerification(NamedTuple):
    """The result of a verification by the directory, as in a request. `directory_verification_id` may be empty."""

    ispb: str
    key_type: int
    submitted_vsync: bytes
    directory_result: int
    directory_verification_id: str
    directory_vsync: bytes | None


class VsyncVerification(NamedTuple):
    """A stored verification. `last_ok_at` is the time of the previous verification with the result OK."""

    id: UUID
    created_at: datetime
    ispb: str
    key_type: int
    submitted_vsync: bytes
    directory_result: int
    directory_verification_id: str | None
    directory_vsync: bytes | None
    our_vsync: bytes
    our_count: int
    last_ok_at: datetime | None
    actor: str


class VerificationFilter(NamedTuple):
    """Selects verifications; None matches any value. The time range is [created_after, created_before)."""

    ispb: str
    key_type: int
    directory_result: int | None
    created_after: datetime | None
    created_before: datetime | None


class EventPosition(NamedTuple):
    """A position in the order of events: after the event with this transaction id and sequence number.

    `at` is the time of that event. `horizon` is the id below which all transactions had ended when it was written. A
    position before all events has zeros and the time at which it was created.
    """

    transaction_id: int
    seq: int
    at: datetime
    horizon: int


class Event(NamedTuple):
    """A CID that was added to or removed from the set."""

    transaction_id: int
    seq: int
    created_at: datetime
    ispb: str
    key_type: int
    change: int
    cid: bytes
    audit_id: UUID | None
    horizon: int

    @property
    def position(self) -> EventPosition:
        """The position after this event."""
        return EventPosition(self.transaction_id, self.seq, self.created_at, self.horizon)


TABLES: Final = (
    RecordTable(
        VsyncVerification,
        "vsync_verifications",
        max_chars={"directory_verification_id": MAX_VERIFICATION_ID_CHARS, "actor": MAX_ACTOR_CHARS},
    ),
)
