"""The feed's place, kept in Redis beside the entries: which changes have been taken out of this Redis. Pure.

Whatever happens to Redis (restarted empty or from an old dump, failed over to a replica that lags), the place and the
entries go back together. See docs/cache.md for why nothing else needs to be believed.
"""

import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, Self

_VERSION: Final = b"\2"
# Of transaction ids: PostgreSQL's are of 64 bits, and it uses up half of them in no time that matters.
_MOST: Final = 1 << 63
_STAMP: Final = 8
_EPOCH: Final = 16
_SERVER: Final = 8
_HEAD: Final = 1 + 3 * _STAMP + _EPOCH + _SERVER


class Snapshot(NamedTuple):
    """pg_snapshot: transactions below `xmax` have ended, but for those of `xip`."""

    xmin: int
    xmax: int
    xip: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        xmin, xmax, xip = text.split(":")
        running = [int(xid) for xid in xip.split(",") if xid]
        snapshot = cls(int(xmin), int(xmax), frozenset(running))
        # As PostgreSQL writes it, which reads nothing else.
        if f"{snapshot.xmin}:{snapshot.xmax}:{','.join(map(str, running))}" != text:
            raise ValueError("not a snapshot")
        if not 0 < snapshot.xmin <= snapshot.xmax < _MOST or sorted(snapshot.xip) != running:
            raise ValueError("not a snapshot")
        if running and not snapshot.xmin <= running[0] <= running[-1] < snapshot.xmax:
            raise ValueError("not a snapshot")
        return snapshot

    def ended(self, xid: int) -> bool:
        """Whether a transaction has."""
        return xid < self.xmax and xid not in self.xip

    def covers(self, other: "Snapshot") -> bool:
        """Whether every transaction that has ended for `other` has ended for this one."""
        return self.xmax >= other.xmax and all(xid >= other.xmax or xid in other.xip for xid in self.xip)


class Incarnation(NamedTuple):
    """Of a database. What is known of one says nothing of another.

    `epoch`: 16 bytes that differ after a crash, after a promotion, and in a copy. `server`: which one, since when, and
    which database of it, in one number: it tells apart two that hold the same database, one of which is the primary no
    more.
    """

    epoch: bytes
    server: int


@dataclass(frozen=True)
class Watermark:
    """A place in the feed.

    `generation` and `absences` are the stamps of values and of what was missing: entries with others do not count.
    `mark` differs from that of every other place. Every change that `seen` sees has been taken out.
    """

    generation: bytes
    absences: bytes
    mark: bytes
    life: Incarnation
    seen: str

    @classmethod
    def new(cls, life: Incarnation, seen: str) -> Self:
        """Where nothing that was cached before counts."""
        return cls(_stamp(), _stamp(), _stamp(), life, seen)

    def moved(self, seen: str, *, forget_absences: bool) -> "Watermark":
        """The next place."""
        return Watermark(self.generation, _stamp() if forget_absences else self.absences, _stamp(), self.life, seen)

    @cached_property
    def snapshot(self) -> Snapshot:
        """`seen`, taken apart."""
        return Snapshot.parse(self.seen)

    def covers(self, other: "Watermark") -> bool:
        """Whether every change that has been taken out at `other` has been taken out here."""
        return self.life == other.life and self.snapshot.covers(other.snapshot)

    def encode(self) -> bytes:
        """As it is kept."""
        epoch, server = self.life
        stamps = self.generation + self.absences + self.mark
        return _VERSION + stamps + epoch + server.to_bytes(_SERVER) + self.seen.encode("ascii")

    @classmethod
    def decode(cls, data: bytes | None) -> Self | None:
        """None: none is kept, or not one of ours."""
        if data is None or len(data) <= _HEAD or data[:1] != _VERSION:
            return None
        generation, absences, mark = (data[at : at + _STAMP] for at in range(1, 1 + 3 * _STAMP, _STAMP))
        at = 1 + 3 * _STAMP
        life = Incarnation(data[at : at + _EPOCH], int.from_bytes(data[at + _EPOCH : _HEAD]))
        try:
            place = cls(generation, absences, mark, life, data[_HEAD:].decode("ascii"))
            Snapshot.parse(place.seen)
        except ValueError:
            return None
        return place


class Change(NamedTuple):
    """A statement's changes: what its records are looked up by, one behind the other. `cids` None: too many to name."""

    added: bool
    cids: bytes | None
    keys: bytes | None
    ids: bytes | None


def _stamp() -> bytes:
    return secrets.token_bytes(_STAMP)
