"""ListCidEvents and WatchCidEvents on the wire."""

import asyncio
import struct
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from vsync.v1 import reconciliation_pb2 as pb

from vsyncd.core.paging import decode_token, encode_token
from vsyncd.core.validation import Validator
from vsyncd.domains.reconciliation.feed import FeedRepository, FeedState, gone
from vsyncd.domains.reconciliation.messages import event_message, read_group, vsync_message
from vsyncd.domains.reconciliation.records import KEY_TYPES
from vsyncd.observability.metrics import WATCHED_EVENTS

_LONGEST: Final = timedelta(days=31)
# Seconds between two looks for news, and after which a stream without any says that it lives.
LOOK: Final = 0.2
_HEARTBEAT: Final = 10.0
BATCH: Final = 1_000
# A page's token: the event it is behind, the last transaction of the range, its end in microseconds since 1970, how
# many events are still to come, and the feed.
_PAGE: Final = struct.Struct("!QQQqQ16s")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class EventStreams:
    """Serves the history of the set."""

    def __init__(self, feed: FeedRepository) -> None:
        self._feed = feed

    async def page(self, request: pb.ListCidEventsRequest) -> pb.ListCidEventsResponse:
        """One page of a time range."""
        validator = Validator()
        group = read_group(request, "", validator)
        from_time, below_time = _read_range(request, validator)
        size = validator.page_size(request.page_size)
        validator.raise_any()
        scope = ("ListCidEvents", *group, from_time, request.created_before.ToJsonString())
        response = pb.ListCidEventsResponse()
        if request.page_token:
            *behind, last, end, left, feed = _PAGE.unpack(decode_token(request.page_token, *scope))
            below_time, feed_id = _EPOCH + end * _MICROSECOND, UUID(bytes=feed)
        else:
            found = await self._feed.range(group, from_time, below_time)
            behind, last, left, feed_id = [found.first, 0], found.last, found.events, found.feed_id
            response.vsync_before.CopyFrom(vsync_message(found.before))
            response.vsync_after.CopyFrom(vsync_message(found.after))
        if not last:
            return response
        events = await self._feed.page(
            group, from_time, below_time, feed_id=feed_id, behind=(behind[0], behind[1]), last=last, limit=size + 1
        )
        response.events.extend(map(event_message, events[:size]))
        left -= len(response.events)
        if (left > 0) != (len(events) > size):
            raise gone()
        if left:
            end = (below_time - _EPOCH) // _MICROSECOND
            at = response.events[-1]
            page = _PAGE.pack(at.transaction_id, at.sequence, last, end, left, feed_id.bytes)
            response.next_page_token = encode_token(page, *scope)
        return response

    async def watch(self, request: pb.WatchCidEventsRequest) -> AsyncGenerator[pb.WatchCidEventsResponse]:
        """What comes, until the caller goes."""
        validator = Validator()
        ispb = validator.ispb("ispb", request.ispb, optional=True) or None
        key_type = validator.choice("key_type", request.key_type, KEY_TYPES, optional=True) or None
        validator.raise_any()
        scope = ("WatchCidEvents", ispb, key_type)
        token = request.resume_token
        begin = await self._feed.begin(
            FeedState.decode(decode_token(token, *scope, field="resume_token")) if token else None
        )
        place, seen = begin.place, begin.look._replace(watermark=0)
        yield pb.WatchCidEventsResponse(
            resume_token=encode_token(place.encode(), *scope),
            consistency_token=begin.log.encode() if begin.log else "",
        )
        clock = asyncio.get_running_loop().time
        told = clock()
        while True:
            batch = await self._feed.behind(place, ispb=ispb, key_type=key_type, limit=BATCH, seen=seen)
            if batch is not None:
                place, seen = batch.place, batch.look._replace(watermark=0) if batch.more else batch.look
            events = batch.events if batch is not None else []
            if events or clock() - told >= _HEARTBEAT:
                yield pb.WatchCidEventsResponse(
                    events=map(event_message, events), resume_token=encode_token(place.encode(), *scope)
                )
                told = clock()
                WATCHED_EVENTS.inc(len(events))
            if batch is None or not batch.more:
                await asyncio.sleep(LOOK)


def _read_range(request: pb.ListCidEventsRequest, validator: Validator) -> tuple[datetime, datetime]:
    if not request.HasField("created_after"):
        validator.add("created_after", "is required")
    from_time = validator.time("created_after", request.created_after)
    if not request.HasField("created_before"):
        # As a difference: there is no time behind the year 9999.
        return from_time, from_time + max(timedelta(), min(_LONGEST, datetime.now(UTC) - from_time))
    below_time = validator.time("created_before", request.created_before)
    if not timedelta() <= below_time - from_time <= _LONGEST:
        validator.add("created_before", "must be at most 31 days behind created_after, and not before it")
    return from_time, below_time
