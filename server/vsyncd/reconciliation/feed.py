"""The history of the set: events in the order of (transaction, sequence), below the watermark.

Ids and sequences do not follow the order of commits. A transaction id below the watermark (pg_snapshot_xmin) belongs to
a transaction that has ended: what it wrote is seen, and nothing can come before it any more.

A position is an event that is there: one that a restore, a failover or retention has taken away is found out by its
absence. All of it is asked of the primary, since a replica may not have an event yet that was given already.
"""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.errors import OutOfRange, Unavailable
from vsyncd.postgres.consistency import Reads
from vsyncd.postgres.database import Database, Session
from vsyncd.postgres.queries import queries
from vsyncd.reconciliation.records import Event, Group, Position, Vsync
from vsyncd.reconciliation.repository import kept_vsyncs

_FORM: Final = struct.Struct("!QQq16s")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class Feed(NamedTuple):
    """The feed as a snapshot has it: its number and id, since when, and up to which transaction it is decided."""

    number: int
    id: UUID
    began: datetime
    watermark: int
    now: datetime


class Place(NamedTuple):
    """A position, with the feed that it is in."""

    position: Position
    feed_id: UUID

    def encode(self) -> bytes:
        """As a token has it."""
        at = (self.position.at - _EPOCH) // _MICROSECOND
        return _FORM.pack(self.position.transaction_id, self.position.seq, at, self.feed_id.bytes)

    @classmethod
    def decode(cls, data: bytes) -> "Place":
        """What `encode` gave."""
        transaction_id, seq, at, feed_id = _FORM.unpack(data)
        return cls(Position(transaction_id, seq, _EPOCH + at * _MICROSECOND), UUID(bytes=feed_id))


class Batch(NamedTuple):
    """Events, and the place behind them. `more`: there are others by now. `watermark`: what it was decided up to."""

    events: list[Event]
    place: Place
    more: bool
    watermark: int


class Range(NamedTuple):
    """A time range as it was when it was first read: its last transaction, and the VSyncs at its begin and its end."""

    first: int
    last: int
    before: Vsync
    after: Vsync


class FeedRepository:
    """Events in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = queries("vsyncd.reconciliation", database.schema)

    async def now(self) -> Place:
        """The place behind everything that is decided."""

        async def work(session: Session) -> Place:
            feed = await self._feed(session)
            return Place(await self._last(session, feed), feed.id)

        return await self._database.read(work, Reads.PRIMARY)

    async def check(self, place: Place) -> None:
        """Raises OutOfRange (EVENTS_GONE) when the feed does not go on from there."""

        async def work(session: Session) -> None:
            await self._check(session, await self._feed(session), place)

        await self._database.read(work, Reads.PRIMARY)

    async def behind(
        self, place: Place, *, ispb: str | None, key_type: int | None, limit: int, seen: int
    ) -> Batch | None:
        """The next events of a group, or of all; None when nothing has been decided since the watermark `seen`.

        Raises OutOfRange (EVENTS_GONE).
        """

        async def work(session: Session) -> Batch | None:
            feed = await self._feed(session)
            if feed.watermark == seen and feed.id == place.feed_id:
                return None
            await self._check(session, feed, place)
            parameters = {
                "transaction_id": place.position.transaction_id,
                "seq": place.position.seq,
                "watermark": feed.watermark,
                "feed": feed.number,
                "ispb": ispb,
                "key_type": key_type,
                "limit": limit,
            }
            events = [Event(*row) for row in await session.all(self._queries["events_behind"], parameters)]
            if len(events) == limit:
                return Batch(events, Place(events[-1].position, feed.id), more=True, watermark=feed.watermark)
            # Nobody is interested in the others: the place moves on behind them all the same.
            last = await self._last(session, feed, known=place.position.transaction_id)
            return Batch(events, Place(last, feed.id), more=False, watermark=feed.watermark)

        return await self._database.read(work, Reads.PRIMARY)

    async def range(self, group: Group, from_time: datetime, below_time: datetime) -> tuple[Range, UUID]:
        """What a time range comes to now, and the feed's id. Raises OutOfRange (EVENTS_GONE)."""

        async def work(session: Session) -> tuple[Range, UUID]:
            await session.run(self._queries["begin_snapshot"])
            try:
                feed = await self._feed(session)
                if from_time < await self._oldest(session, feed):
                    raise _gone()
                parameters = {
                    **group._asdict(),
                    "from": from_time,
                    "below": below_time,
                    "watermark": feed.watermark,
                    "feed": feed.number,
                }
                row = await session.one(self._queries["range"], parameters)
                [kept] = await kept_vsyncs(session, self._queries, group.ispb, [group.key_type])
            finally:
                if not session.connection.closed:
                    await session.connection.rollback()
            if row is None:
                raise AssertionError("an aggregate gives a row")
            first, last, inside, gained, behind, gained_behind = row
            after = _without(kept, behind, gained_behind)
            before = _without(after, inside, gained)
            return Range(first or 0, last or 0, before, after), feed.id

        return await self._database.read(work, Reads.PRIMARY)

    async def page(
        self, group: Group, from_time: datetime, below_time: datetime, *, place: Place, last: int, limit: int
    ) -> Sequence[Event]:
        """The events of a time range behind a place, up to the transaction `last`. Raises OutOfRange (EVENTS_GONE)."""

        async def work(session: Session) -> list[Event]:
            feed = await self._feed(session)
            if feed.id != place.feed_id or from_time < await self._oldest(session, feed) or feed.watermark <= last:
                raise _gone()
            parameters = {
                **group._asdict(),
                "transaction_id": place.position.transaction_id,
                "seq": place.position.seq,
                "last": last,
                "feed": feed.number,
                "from": from_time,
                "below": below_time,
                "limit": limit,
            }
            return [Event(*row) for row in await session.all(self._queries["events_of_range"], parameters)]

        return await self._database.read(work, Reads.PRIMARY)

    async def _feed(self, session: Session) -> Feed:
        row = await session.one(self._queries["feed"])
        if row is None or not row[3]:
            message = "The database was restored; its history begins anew in a moment."
            raise Unavailable("EVENTS_RESTORED", message, retry_after=2.0)
        return Feed(row[0], row[1], row[2], row[4], row[5])

    async def _last(self, session: Session, feed: Feed, known: int = 0) -> Position:
        parameters = {"watermark": feed.watermark, "feed": feed.number, "known": known}
        row = await session.one(self._queries["last_event"], parameters)
        return Position(*row) if row else Position(0, 0, feed.now)

    async def _check(self, session: Session, feed: Feed, place: Place) -> None:
        if place.feed_id != feed.id:
            raise _gone()
        if place.position.transaction_id == 0:
            if place.position.at < await self._oldest(session, feed):
                raise _gone()
            return
        row = await session.one(self._queries["find_event"], {**place.position._asdict(), "feed": feed.number})
        if row is None or not row[0]:
            raise _gone()

    async def _oldest(self, session: Session, feed: Feed) -> datetime:
        row = await session.one(self._queries["oldest_time"])
        oldest: datetime | None = row[0] if row else None
        return max(feed.began, oldest or _NEVER)


def _without(vsync: Vsync, xor: bytes, gained: int) -> Vsync:
    """The VSync before some events."""
    number = int.from_bytes(vsync.vsync) ^ int.from_bytes(xor)
    return vsync._replace(vsync=number.to_bytes(32), size=vsync.size - gained)


def _gone() -> OutOfRange:
    return OutOfRange("EVENTS_GONE", "The events from there on are not all kept, or were restored: read the set anew.")
