"""What PostgreSQL says of changes, and what has to be done about them. Pure."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from psycopg.rows import TupleRow

from vsyncd.cache.keys import CID, ID, KEY
from vsyncd.cache.watermark import Change, Incarnation, Snapshot, Watermark

# More than these are not taken out one by one: everything is forgotten instead.
MOST_NAMES: Final = 20_000
# As many rows as the query `poll` gives at the most.
MOST_ROWS: Final = 2_000
_SIZES: Final = ((CID, 32), (KEY, 32), (ID, 16))


class Polled(NamedTuple):
    """What PostgreSQL said: its snapshot and the changes that were not seen before; `secret` None: no epoch yet.
    `dropped`: changes of transactions up to this one may be gone. `unheard`: so may those of these, which were running
    when the epoch began."""

    seen: str
    secret: bytes | None
    life: Incarnation
    dropped: int
    unheard: frozenset[int]
    changes: Sequence[Change]

    @classmethod
    def of(cls, rows: Sequence[TupleRow]) -> "Polled":
        """From the rows of the query `poll`."""
        seen, secret, database, table, server, dropped, born = rows[0][:7]
        life = Incarnation(hashlib.sha256(b"%b %d %d" % (secret or b"", database, table)).digest()[:16], server)
        unheard = Snapshot.parse(born).xip if born is not None else frozenset[int]()
        changes = [Change(*row[7:]) for row in rows if row[7] is not None]
        return cls(seen, secret, life, dropped or 0, unheard, changes)

    def follows(self, place: Watermark) -> bool:
        """Whether the changes are all that came behind a place: it is of the same life of the same database, and
        nothing was dropped, nor cut off, that it had not seen.

        What was prepared for a two-phase commit outlives a crash, which empties the feed: its end cannot be followed.

        A place was looked at before PostgreSQL was asked, which sees by then all that any place has seen: one that is
        ahead is none of ours, and changes up to it would be taken for seen.
        """
        seen = Snapshot.parse(self.seen)
        return (
            place.life == self.life
            and seen.covers(place.snapshot)
            and not any(seen.ended(xid) and not place.snapshot.ended(xid) for xid in self.unheard)
            and place.snapshot.xmin > self.dropped
            and len(self.changes) < MOST_ROWS
            and all(change.added or change.cids is not None for change in self.changes)
            and sum(len(change.cids or b"") for change in self.changes) <= MOST_NAMES * 32
        )

    @property
    def forget_absences(self) -> bool:
        """Whether more was created than could be named."""
        return any(change.added and change.cids is None for change in self.changes)

    def lookups(self) -> Iterator[tuple[str, bytes]]:
        """Kind and digest of everything that changed."""
        for change in self.changes:
            for (kind, size), packed in zip(_SIZES, (change.cids, change.keys, change.ids), strict=True):
                for at in range(0, len(packed or b""), size):
                    yield kind, (packed or b"")[at : at + size]
