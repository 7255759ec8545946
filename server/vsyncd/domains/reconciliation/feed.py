"""The history of the set: events in the order of (transaction, sequence), below the watermark.

Ids and sequences do not follow the order of commits. A transaction id below the watermark (pg_snapshot_xmin) belongs to
a transaction that has ended: what it wrote is seen, and nothing can come before it any more.

A place is an event that is there, and the number of those before it, from the event's horizon on: what a restore, a
failover, a crash or retention has taken away of what was given is found out by its absence. Everything below the
horizon had ended when the event was written, and so is there when the event is. All of it is asked of the primary,
since a replica may not have an event yet that was given already.
"""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.core.errors import OutOfRange, Unavailable
from vsyncd.domains.reconciliation.records import Event, EventPosition, Group, Vsync
from vsyncd.domains.reconciliation.repository import kept_vsyncs
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.consistency import WalPosition as LogPosition
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session

_FORM: Final = struct.Struct("!QQqQQ16s")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class Look(NamedTuple):
    """What was looked at: up to which transaction it was decided, and the server, by the time when it was started."""

    watermark: int
    server: datetime


class EventFeed(NamedTuple):
    """The feed as a snapshot has it: its number and id, and since when."""

    number: int
    id: UUID
    began: datetime
    look: Look
    now: datetime


class FeedState(NamedTuple):
    """A position, with the feed that it is in. `events`: how many, from its horizon up to itself, of every group."""

    position: EventPosition
    feed_id: UUID
    events: int

    def encode(self) -> bytes:
        """As a token has it."""
        transaction_id, seq, at, horizon = self.position
        micros = (at - _EPOCH) // _MICROSECOND
        return _FORM.pack(transaction_id, seq, micros, horizon, self.events, self.feed_id.bytes)

    @classmethod
    def decode(cls, data: bytes) -> "FeedState":
        """What `encode` gave."""
        transaction_id, seq, micros, horizon, events, feed_id = _FORM.unpack(data)
        return cls(
            EventPosition(transaction_id, seq, _EPOCH + micros * _MICROSECOND, horizon), UUID(bytes=feed_id), events
        )


class Begin(NamedTuple):
    """Where a feed begins, what was looked at, and where the log stood behind that, when anybody may have to know."""

    place: FeedState
    look: Look
    log: LogPosition | None


class Batch(NamedTuple):
    """Events, and the place behind them. `more`: there are others by now."""

    events: list[Event]
    place: FeedState
    more: bool
    look: Look


class Range(NamedTuple):
    """A time range as it was when it was first read: the feed, the first and the last transaction, how many events, and
    the VSyncs at its begin and its end."""

    feed_id: UUID
    first: int
    last: int
    events: int
    before: Vsync
    after: Vsync


class FeedRepository:
    """Events in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = queries("vsyncd.domains.reconciliation", database.schema)

    async def begin(self, place: FeedState | None) -> Begin:
        """From `place` on, or behind everything that is decided. Raises OutOfRange (EVENTS_GONE)."""

        async def work(session: Session) -> Begin:
            feed = await self._feed(session)
            if place is not None:
                await self._verify(session, feed, place)
                begin = place
            else:
                last = await self._last(session, feed)
                begin = FeedState(last, feed.id, await self._count(session, feed, last))
            return Begin(begin, feed.look, await self._database.position(session))

        return await self._database.read(work, ReadMode.PRIMARY)

    async def behind(
        self, place: FeedState, *, ispb: str | None, key_type: int | None, limit: int, seen: Look
    ) -> Batch | None:
        """The next events of a group, or of all; None when nothing has been decided since `seen`.

        Raises OutOfRange (EVENTS_GONE).
        """

        async def work(session: Session) -> Batch | None:
            feed = await self._feed(session)
            if feed.look == seen and feed.id == place.feed_id:
                return None
            if feed.look.server == seen.server:
                await self._find(session, feed, place)
            else:
                await self._verify(session, feed, place)
            parameters = {
                "transaction_id": place.position.transaction_id,
                "seq": place.position.seq,
                "watermark": feed.look.watermark,
                "feed": feed.number,
                "ispb": ispb,
                "key_type": key_type,
                "limit": limit,
            }
            events = [Event(*row) for row in await session.all(self._queries["events_behind"], parameters)]
            more = len(events) == limit
            # Nobody is interested in the others: the place moves on behind them all the same.
            last = events[-1].position if more else await self._last(session, feed, known=place.position.transaction_id)
            return Batch(events, await self._moved(session, feed, place, last), more, feed.look)

        return await self._database.read(work, ReadMode.PRIMARY)

    async def range(self, group: Group, from_time: datetime, below_time: datetime) -> Range:
        """What a time range comes to now. Raises OutOfRange (EVENTS_GONE)."""

        async def work(session: Session) -> Range:
            await session.run(self._queries["begin_snapshot"])
            try:
                feed = await self._feed(session)
                if from_time < await self._oldest(session, feed):
                    raise gone()
                parameters = {
                    **group._asdict(),
                    "from": from_time,
                    "below": below_time,
                    "watermark": feed.look.watermark,
                    "feed": feed.number,
                }
                row = await session.one(self._queries["range"], parameters)
                [kept] = await kept_vsyncs(session, self._queries, group.ispb, [group.key_type])
            finally:
                if not session.connection.closed:
                    await session.connection.rollback()
            if row is None:
                raise AssertionError("an aggregate gives a row")
            first, last, inside, gained, behind, gained_behind, events = row
            after = _without(kept, behind, gained_behind)
            before = _without(after, inside, gained)
            return Range(feed.id, first or 0, last or 0, events, before, after)

        return await self._database.read(work, ReadMode.PRIMARY)

    async def page(
        self,
        group: Group,
        from_time: datetime,
        below_time: datetime,
        *,
        feed_id: UUID,
        behind: tuple[int, int],
        last: int,
        limit: int,
    ) -> Sequence[Event]:
        """The events of a time range behind a transaction and sequence number, up to the transaction `last`.

        Raises OutOfRange (EVENTS_GONE).
        """

        async def work(session: Session) -> list[Event]:
            feed = await self._feed(session)
            if feed.id != feed_id or from_time < await self._oldest(session, feed) or feed.look.watermark <= last:
                raise gone()
            parameters = {
                **group._asdict(),
                "transaction_id": behind[0],
                "seq": behind[1],
                "last": last,
                "feed": feed.number,
                "from": from_time,
                "below": below_time,
                "limit": limit,
            }
            return [Event(*row) for row in await session.all(self._queries["events_of_range"], parameters)]

        return await self._database.read(work, ReadMode.PRIMARY)

    async def _feed(self, session: Session) -> EventFeed:
        row = await session.one(self._queries["feed"])
        if row is None or not row[3]:
            message = "The database was restored; its history begins anew in a moment."
            raise Unavailable("EVENTS_RESTORED", message, retry_after=2.0)
        return EventFeed(row[0], row[1], row[2], Look(row[4], row[6]), row[5])

    async def _last(self, session: Session, feed: EventFeed, known: int = 0) -> EventPosition:
        parameters = {"watermark": feed.look.watermark, "feed": feed.number, "known": known}
        row = await session.one(self._queries["last_event"], parameters)
        return EventPosition(*row) if row else EventPosition(0, 0, feed.now, 0)

    async def _moved(self, session: Session, feed: EventFeed, place: FeedState, last: EventPosition) -> FeedState:
        """The place behind `last`.

        With one horizon, what was counted goes on: while a transaction stays open, that of all events is the same. With
        another one all is counted anew, and what was given must be there still: after this nobody looks for it.
        """
        if last == place.position:
            return place
        if last.horizon == place.position.horizon:
            return FeedState(
                last, feed.id, place.events + await self._count(session, feed, last, behind=place.position)
            )
        await self._verify(session, feed, place)
        return FeedState(last, feed.id, await self._count(session, feed, last))

    async def _verify(self, session: Session, feed: EventFeed, place: FeedState) -> None:
        """Whether all is there that was given up to a place. Raises OutOfRange (EVENTS_GONE)."""
        await self._find(session, feed, place)
        if await self._count(session, feed, place.position) != place.events:
            raise gone()

    async def _find(self, session: Session, feed: EventFeed, place: FeedState) -> None:
        if place.feed_id != feed.id:
            raise gone()
        if place.position.transaction_id == 0:
            if place.position.at < await self._oldest(session, feed):
                raise gone()
            return
        row = await session.one(self._queries["find_event"], {**place.position._asdict(), "feed": feed.number})
        if row is None or not row[0]:
            raise gone()

    async def _count(
        self, session: Session, feed: EventFeed, last: EventPosition, behind: EventPosition | None = None
    ) -> int:
        parameters = {
            **last._asdict(),
            "behind_transaction": behind.transaction_id if behind else 0,
            "behind_seq": behind.seq if behind else 0,
            "feed": feed.number,
        }
        row = await session.one(self._queries["count_events"], parameters)
        if row is None:
            raise AssertionError("an aggregate gives a row")
        count: int = row[0]
        return count

    async def _oldest(self, session: Session, feed: EventFeed) -> datetime:
        row = await session.one(self._queries["oldest_time"])
        oldest: datetime | None = row[0] if row else None
        return max(feed.began, oldest or _NEVER)


def _without(vsync: Vsync, xor: bytes, gained: int) -> Vsync:
    """The VSync before some events."""
    number = int.from_bytes(vsync.vsync) ^ int.from_bytes(xor)
    return vsync._replace(vsync=number.to_bytes(32), size=vsync.size - gained)


def gone() -> OutOfRange:
    """What leads on from a token is not there."""
    return OutOfRange("EVENTS_GONE", "The events from there on are not all kept, or were restored: read the set anew.")
