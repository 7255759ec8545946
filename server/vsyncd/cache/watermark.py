"""The watermark, and the changes in PostgreSQL that advance it. Pure.

A watermark is a position in the change feed. It is stored in Redis beside the entries: every change up to it has been
invalidated in this Redis. If Redis loses data (restarted empty or from an old dump, failed over to a lagging replica),
watermark and entries go back together. docs/cache.md explains why this is sufficient.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, Self

from psycopg.rows import TupleRow

from vsyncd.cache.encoding import CID, ID, KEY

_VERSION: Final = b"\2"
# PostgreSQL's transaction ids have 64 bits; half of them are not used up in any realistic time.
_MAX_XID: Final = 1 << 63
_STAMP_BYTES: Final = 8
_EPOCH_BYTES: Final = 16
_SERVER_BYTES: Final = 8
_HEADER_BYTES: Final = 1 + 3 * _STAMP_BYTES + _EPOCH_BYTES + _SERVER_BYTES
# More changed records than this are not deleted one by one; a new generation begins instead.
_MAX_RECORDS: Final = 20_000
# The LIMIT of the query `poll`.
MAX_ROWS: Final = 2_000
_DIGEST_BYTES: Final = ((CID, 32), (KEY, 32), (ID, 16))


class TransactionSnapshot(NamedTuple):
    """A pg_snapshot: transactions below `xmax` have ended, except those in `xip`."""

    xmin: int
    xmax: int
    xip: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads PostgreSQL's text format. Raises ValueError."""
        xmin, xmax, xip = text.split(":")
        running = [int(xid) for xid in xip.split(",") if xid]
        snapshot = cls(int(xmin), int(xmax), frozenset(running))
        # PostgreSQL accepts only its own canonical format, int() accepts more.
        if f"{snapshot.xmin}:{snapshot.xmax}:{','.join(map(str, running))}" != text:
            raise ValueError("not a snapshot")
        if not 0 < snapshot.xmin <= snapshot.xmax < _MAX_XID or sorted(snapshot.xip) != running:
            raise ValueError("not a snapshot")
        if running and not snapshot.xmin <= running[0] <= running[-1] < snapshot.xmax:
            raise ValueError("not a snapshot")
        return snapshot

    def has_ended(self, xid: int) -> bool:
        """Whether a transaction had ended."""
        return xid < self.xmax and xid not in self.xip

    def covers(self, other: "TransactionSnapshot") -> bool:
        """Whether every transaction that had ended in `other` had ended in this one."""
        return self.xmax >= other.xmax and all(xid >= other.xmax or xid in other.xip for xid in self.xip)


class Incarnation(NamedTuple):
    """Identifies a database between two crashes, promotions or copies. Watermarks of different ones are unrelated.

    `epoch`: 16 bytes that differ after a crash, after a promotion, and in a copy. `server`: one number for the server's
    start time and the database's oid. It distinguishes the primary from a former primary with the same database.
    """

    epoch: bytes
    server: int


@dataclass(frozen=True)
class Watermark:
    """A position in the change feed.

    Entries are valid if their stamp equals `generation` (records) or `absence_generation` (absent records). `nonce`
    differs in every watermark. Every change that is visible in `snapshot_text` has been invalidated.
    """

    generation: bytes
    absence_generation: bytes
    nonce: bytes
    incarnation: Incarnation
    snapshot_text: str

    @classmethod
    def new_generation(cls, incarnation: Incarnation, snapshot_text: str) -> Self:
        """Returns a watermark that invalidates every entry."""
        return cls(_stamp(), _stamp(), _stamp(), incarnation, snapshot_text)

    def advanced(self, snapshot_text: str, *, invalidate_absences: bool = False) -> "Watermark":
        """Returns the next watermark of this generation."""
        absences = _stamp() if invalidate_absences else self.absence_generation
        return Watermark(self.generation, absences, _stamp(), self.incarnation, snapshot_text)

    @cached_property
    def snapshot(self) -> TransactionSnapshot:
        return TransactionSnapshot.parse(self.snapshot_text)

    def covers(self, other: "Watermark") -> bool:
        """Whether every change that is invalidated at `other` is invalidated at this watermark."""
        return self.incarnation == other.incarnation and self.snapshot.covers(other.snapshot)

    def encode(self) -> bytes:
        epoch, server = self.incarnation
        stamps = self.generation + self.absence_generation + self.nonce
        return _VERSION + stamps + epoch + server.to_bytes(_SERVER_BYTES) + self.snapshot_text.encode("ascii")

    @classmethod
    def decode(cls, data: bytes | None) -> Self | None:
        """Reads the stored value. Returns None if there is none, or if it is invalid."""
        if data is None or len(data) <= _HEADER_BYTES or data[:1] != _VERSION:
            return None
        stamps_end = 1 + 3 * _STAMP_BYTES
        generation, absences, nonce = (data[at : at + _STAMP_BYTES] for at in range(1, stamps_end, _STAMP_BYTES))
        epoch_end = stamps_end + _EPOCH_BYTES
        incarnation = Incarnation(data[stamps_end:epoch_end], int.from_bytes(data[epoch_end:_HEADER_BYTES]))
        try:
            watermark = cls(generation, absences, nonce, incarnation, data[_HEADER_BYTES:].decode("ascii"))
            TransactionSnapshot.parse(watermark.snapshot_text)
        except ValueError:
            return None
        return watermark


class RecordChange(NamedTuple):
    """The records that one statement has added or changed, as concatenated digests.

    `cids` is None if the statement changed too many records to name.
    """

    added: bool
    cids: bytes | None
    keys: bytes | None
    ids: bytes | None


class ChangeBatch(NamedTuple):
    """PostgreSQL's current snapshot, and the changes that are not visible in the polled watermark.

    `secret` is None before the first epoch. Changes of transactions up to `dropped_through` may have been deleted from
    the feed. Changes of transactions in `unlogged` may never have been in it: they were running when the epoch began.
    """

    snapshot_text: str
    secret: bytes | None
    incarnation: Incarnation
    dropped_through: int
    unlogged: frozenset[int]
    changes: Sequence[RecordChange]

    @classmethod
    def from_rows(cls, rows: Sequence[TupleRow]) -> "ChangeBatch":
        snapshot_text, secret, database, table, server, dropped, epoch_snapshot = rows[0][:7]
        epoch = hashlib.sha256(b"%b %d %d" % (secret or b"", database, table)).digest()[:_EPOCH_BYTES]
        unlogged = TransactionSnapshot.parse(epoch_snapshot).xip if epoch_snapshot is not None else frozenset[int]()
        changes = [RecordChange(*row[7:]) for row in rows if row[7] is not None]
        return cls(snapshot_text, secret, Incarnation(epoch, server), dropped or 0, unlogged, changes)

    def continues(self, watermark: Watermark) -> bool:
        """Whether these are all changes since the watermark.

        They are not if the watermark belongs to another incarnation, or if changes were deleted, cut off by the limit,
        or too many to name. A transaction that was prepared for a two-phase commit survives a crash, which empties the
        feed: when it ends, its changes are unknown.

        The watermark was read before PostgreSQL was polled, so the snapshot covers every valid watermark. One that is
        ahead is invalid, and would hide changes.
        """
        snapshot = TransactionSnapshot.parse(self.snapshot_text)
        return (
            watermark.incarnation == self.incarnation
            and snapshot.covers(watermark.snapshot)
            and not any(snapshot.has_ended(xid) and not watermark.snapshot.has_ended(xid) for xid in self.unlogged)
            and watermark.snapshot.xmin > self.dropped_through
            and len(self.changes) < MAX_ROWS
            and all(change.added or change.cids is not None for change in self.changes)
            and sum(len(change.cids or b"") for change in self.changes) <= _MAX_RECORDS * 32
        )

    @property
    def invalidates_absences(self) -> bool:
        """Whether more records were added than could be named."""
        return any(change.added and change.cids is None for change in self.changes)

    def changed_lookups(self) -> Iterator[tuple[str, bytes]]:
        """Yields the kind and digest of every lookup whose result has changed."""
        for change in self.changes:
            digests = (change.cids, change.keys, change.ids)
            for (kind, size), packed in zip(_DIGEST_BYTES, digests, strict=True):
                for at in range(0, len(packed or b""), size):
                    yield kind, (packed or b"")[at : at + size]


def _stamp() -> bytes:
    return secrets.token_bytes(_STAMP_BYTES)
