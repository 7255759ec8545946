"""What reconciliation deals in. VSyncs and CIDs are 32 bytes; enumerations are the numbers of vsync.v1's enums."""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

KEY_TYPES: Final = range(1, 6)
OK: Final = 1
NOK: Final = 2
ADDED: Final = 1
REMOVED: Final = 2


class Group(NamedTuple):
    """One set of CIDs: those of a key type of a participant."""

    ispb: str
    key_type: int


class Vsync(NamedTuple):
    """The XOR of a group's CIDs, and how many they are."""

    ispb: str
    key_type: int
    vsync: bytes
    size: int


class NewVsyncVerification(NamedTuple):
    """What the directory said, as a caller records it. `directory_verification_id` may be empty."""

    ispb: str
    key_type: int
    submitted_vsync: bytes
    directory_result: int
    directory_verification_id: str
    directory_vsync: bytes | None


class VsyncVerification(NamedTuple):
    """A verification, its columns in the order of queries.sql. `last_ok_at`: when it had last been OK before."""

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
    """Which verifications; None: any. Times are [after, before)."""

    ispb: str
    key_type: int
    directory_result: int | None
    created_after: datetime | None
    created_before: datetime | None


class EventPosition(NamedTuple):
    """A place in the order of events: behind the one with this transaction and sequence number.

    `at` is the time of that event, `horizon` the transaction below which all had ended when it was written. A position
    without an event before it has zeros, and the time when it was given.
    """

    transaction_id: int
    seq: int
    at: datetime
    horizon: int


class Event(NamedTuple):
    """One CID that came or went, its columns in the order of queries.sql."""

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
        """The place behind it."""
        return EventPosition(self.transaction_id, self.seq, self.created_at, self.horizon)
