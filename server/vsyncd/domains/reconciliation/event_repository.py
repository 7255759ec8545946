"""Reads the events of the CID set in the order of (transaction id, sequence number), below the horizon.

Ids and sequence numbers do not follow the order of commits. But all transactions below the horizon of a read
(pg_snapshot_xmin) have ended: their events are visible, and no event can precede them any more.

Each event stores the horizon at which it was written. A resume point is an existing event and the number of events
from its horizon up to itself. Everything below its horizon had ended when the event was written, so it exists if the
event does. Events that were delivered and then lost in a restore, a failover, a crash or by retention are detected,
because the event is missing or the number differs. All reads go to the primary: a replica may lack events that were
delivered already.
"""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from vsyncd.core.errors import OutOfRange, Unavailable
from vsyncd.core.scope import Scope
from vsyncd.domains.reconciliation.records import Event, EventPosition, Group, Vsync
from vsyncd.domains.reconciliation.repository import select_vsyncs
from vsyncd.postgres.consistency import ReadMode, WalPosition
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import Query, Session, queries

_RESUME_POINT: Final = struct.Struct("!QQqQQ16s")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
_MIN_TIME: Final = datetime.min.replace(tzinfo=UTC)


class FeedHorizon(NamedTuple):
    """All transactions below `transaction_id` have ended, according to the server that started at this time."""

    transaction_id: int
    server_started_at: datetime


class EventFeed(NamedTuple):
    """The current feed. A restore starts a new feed."""

    number: int
    id: UUID
    started_at: datetime
    horizon: FeedHorizon
    now: datetime


class ResumePoint(NamedTuple):
    """A position in a feed, and the number of events of all groups from its horizon up to itself."""

    position: EventPosition
    feed_id: UUID
    events: int

    def encode(self) -> bytes:
        """Returns the content of a resume token."""
        transaction_id, sequence, time, horizon = self.position
        microseconds = (time - EPOCH) // MICROSECOND
        return _RESUME_POINT.pack(transaction_id, sequence, microseconds, horizon, self.events, self.feed_id.bytes)

    @classmethod
    def decode(cls, data: bytes) -> "ResumePoint":
        transaction_id, sequence, microseconds, horizon, events, feed_id = _RESUME_POINT.unpack(data)
        position = EventPosition(transaction_id, sequence, EPOCH + microseconds * MICROSECOND, horizon)
        return cls(position, UUID(bytes=feed_id), events)


class WatchStart(NamedTuple):
    """The resume point that a watch starts at, and the WAL position after it if consistency tokens are in use."""

    resume_point: ResumePoint
    horizon: FeedHorizon
    wal_position: WalPosition | None


class EventBatch(NamedTuple):
    """Events, and the resume point after them. `has_more`: there are further events already."""

    events: list[Event]
    resume_point: ResumePoint
    has_more: bool
    horizon: FeedHorizon


class EventRange(NamedTuple):
    """A time range at its first page: the first and last transaction id, the number of events, and both VSyncs."""

    feed_id: UUID
    first: int
    last: int
    events: int
    vsync_before: Vsync
    vsync_after: Vsync


class EventRepository:
    """The table of events."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = queries("vsyncd.domains.reconciliation", database.schema)
        self._begin_snapshot = queries("vsyncd.postgres", database.schema)["begin_snapshot"]

    async def start_watch(self, resume_point: ResumePoint | None) -> WatchStart:
        """Starts a watch at a resume point, or after all events. Raises OutOfRange (EVENTS_GONE).

        It reads positions only, and therefore takes no scope.
        """

        async def work(session: Session) -> WatchStart:
            feed = await self._feed(session)
            if resume_point is not None:
                await self._verify(session, feed, resume_point)
                start = resume_point
            else:
                last = await self._last_position(session, feed)
                start = ResumePoint(last, feed.id, await self._count(session, feed, last))
            return WatchStart(start, feed.horizon, await self._database.position(session.connection))

        return await self._database.read(work, ReadMode.PRIMARY)

    async def next_batch(
        self,
        after: ResumePoint,
        *,
        ispb: str | None,
        key_type: int | None,
        limit: int,
        seen: FeedHorizon,
        scope: Scope,
    ) -> EventBatch | None:
        """Returns the next events of the selected groups, or None if the horizon is still `seen`.

        Raises IspbDenied, OutOfRange (EVENTS_GONE).
        """
        ispb, ispbs = scope.narrow(ispb)
        query = events_query(self._queries["events_after"], several=ispbs is not None)

        async def work(session: Session) -> EventBatch | None:
            feed = await self._feed(session)
            if feed.horizon == seen and feed.id == after.feed_id:
                return None
            if feed.horizon.server_started_at == seen.server_started_at:
                await self._find(session, feed, after)
            else:
                await self._verify(session, feed, after)
            parameters = {
                "transaction_id": after.position.transaction_id,
                "seq": after.position.seq,
                "read_horizon": feed.horizon.transaction_id,
                "feed": feed.number,
                "ispb": ispb,
                "ispbs": ispbs,
                "key_type": key_type,
                "limit": limit,
            }
            events = [Event(*row) for row in await session.all(query, parameters)]
            has_more = len(events) == limit
            # The resume point also moves past the events of other groups.
            last = (
                events[-1].position
                if has_more
                else await self._last_position(session, feed, min_transaction_id=after.position.transaction_id)
            )
            return EventBatch(events, await self._advance(session, feed, after, last), has_more, feed.horizon)

        return await self._database.read(work, ReadMode.PRIMARY)

    async def summarize(self, group: Group, from_time: datetime, to_time: datetime, *, scope: Scope) -> EventRange:
        """Returns the current summary of a time range, whose end is exclusive.

        Raises IspbDenied, OutOfRange (EVENTS_GONE).
        """
        scope.check(group.ispb)

        async def work(session: Session) -> EventRange:
            await session.run(self._begin_snapshot)
            try:
                feed = await self._feed(session)
                if from_time < await self._oldest_time(session, feed):
                    raise events_gone()
                parameters = self._range_parameters(group, from_time, to_time, feed)
                row = await session.single(
                    self._queries["range"], parameters | {"read_horizon": feed.horizon.transaction_id}
                )
                [current] = await select_vsyncs(session, self._queries, group.ispb, [group.key_type])
            finally:
                if not session.connection.closed:
                    await session.connection.rollback()
            first, last, xor_inside, added_inside, xor_after, added_after, events = row
            vsync_after = _before_events(current, xor_after, added_after)
            vsync_before = _before_events(vsync_after, xor_inside, added_inside)
            return EventRange(feed.id, first or 0, last or 0, events, vsync_before, vsync_after)

        return await self._database.read(work, ReadMode.PRIMARY)

    async def page(
        self,
        group: Group,
        from_time: datetime,
        to_time: datetime,
        *,
        feed_id: UUID,
        after: tuple[int, int],
        last: int,
        limit: int,
        scope: Scope,
    ) -> Sequence[Event]:
        """Returns events of a time range after (transaction id, sequence number), up to the transaction `last`.

        Raises IspbDenied, OutOfRange (EVENTS_GONE).
        """
        scope.check(group.ispb)

        async def work(session: Session) -> list[Event]:
            feed = await self._feed(session)
            complete = feed.id == feed_id and from_time >= await self._oldest_time(session, feed)
            if not complete or feed.horizon.transaction_id <= last:
                raise events_gone()
            parameters = self._range_parameters(group, from_time, to_time, feed) | {
                "transaction_id": after[0],
                "seq": after[1],
                "last": last,
                "limit": limit,
            }
            return [Event(*row) for row in await session.all(self._queries["events_of_range"], parameters)]

        return await self._database.read(work, ReadMode.PRIMARY)

    async def _feed(self, session: Session) -> EventFeed:
        row = await session.one(self._queries["feed"])
        if row is None or not row[3]:
            message = "The database was restored; a new event feed starts in a moment."
            raise Unavailable("EVENTS_RESTORED", message, retry_after=2.0)
        return EventFeed(row[0], row[1], row[2], FeedHorizon(row[4], row[6]), row[5])

    async def _last_position(self, session: Session, feed: EventFeed, min_transaction_id: int = 0) -> EventPosition:
        parameters = {
            "read_horizon": feed.horizon.transaction_id,
            "feed": feed.number,
            "min_transaction_id": min_transaction_id,
        }
        row = await session.one(self._queries["last_event"], parameters)
        return EventPosition(*row) if row else EventPosition(0, 0, feed.now, 0)

    async def _advance(self, session: Session, feed: EventFeed, point: ResumePoint, last: EventPosition) -> ResumePoint:
        """Returns the resume point at `last`.

        With the same horizon the count continues: this is cheap while a long transaction keeps the horizon of all
        events. With another horizon all events are counted anew. Then the old resume point is verified first, because
        no later check covers the events before the new horizon.
        """
        if last == point.position:
            return point
        if last.horizon == point.position.horizon:
            count = await self._count(session, feed, last, after=point.position)
            return ResumePoint(last, feed.id, point.events + count)
        await self._verify(session, feed, point)
        return ResumePoint(last, feed.id, await self._count(session, feed, last))

    async def _verify(self, session: Session, feed: EventFeed, point: ResumePoint) -> None:
        """Raises OutOfRange (EVENTS_GONE) if any event up to the resume point is missing."""
        await self._find(session, feed, point)
        if await self._count(session, feed, point.position) != point.events:
            raise events_gone()

    async def _find(self, session: Session, feed: EventFeed, point: ResumePoint) -> None:
        """Raises OutOfRange (EVENTS_GONE) if the event of the resume point is missing."""
        if point.feed_id != feed.id:
            raise events_gone()
        if point.position.transaction_id == 0:
            found = point.position.at >= await self._oldest_time(session, feed)
        else:
            parameters = {**point.position._asdict(), "feed": feed.number}
            found = (await session.single(self._queries["find_event"], parameters))[0]
        if not found:
            raise events_gone()

    async def _count(
        self, session: Session, feed: EventFeed, last: EventPosition, after: EventPosition | None = None
    ) -> int:
        parameters = {
            **last._asdict(),
            "after_transaction_id": after.transaction_id if after else 0,
            "after_seq": after.seq if after else 0,
            "feed": feed.number,
        }
        count: int = (await session.single(self._queries["count_events"], parameters))[0]
        return count

    async def _oldest_time(self, session: Session, feed: EventFeed) -> datetime:
        [oldest] = await session.single(self._queries["oldest_time"])
        return max(feed.started_at, oldest or _MIN_TIME)

    @staticmethod
    def _range_parameters(group: Group, from_time: datetime, to_time: datetime, feed: EventFeed) -> dict[str, Any]:
        return {**group._asdict(), "from": from_time, "to": to_time, "feed": feed.number}


def _before_events(vsync: Vsync, xor: bytes, added: int) -> Vsync:
    """Returns the VSync before events with this XOR, which added so many CIDs in total."""
    number = int.from_bytes(vsync.vsync) ^ int.from_bytes(xor)
    return vsync._replace(vsync=number.to_bytes(32), size=vsync.size - added)


def events_query(template: Query, *, several: bool = False) -> Query:
    """Returns the query events_after for one participant or all, or for `several`."""
    condition = b"ispb = ANY (%(ispbs)s::text[])" if several else b"(%(ispb)s::text IS NULL OR ispb = %(ispb)s)"
    name = f"{template.name}_of_ispbs" if several else template.name
    return Query(name, template.sql.replace(b"/*ISPB*/", condition))


def events_gone() -> OutOfRange:
    """Returns the error for a token whose events are no longer all available."""
    return OutOfRange("EVENTS_GONE", "Events are missing (retention or a restore): read the whole set again.")
