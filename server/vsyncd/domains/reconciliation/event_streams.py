"""Serves ListCidEvents and WatchCidEvents."""

import asyncio
import struct
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from vsync.v1 import reconciliation_pb2 as pb

from vsyncd.core.paging import decode_page_token, decode_token, encode_page_token, encode_token
from vsyncd.core.scope import Scope
from vsyncd.core.validation import Validator
from vsyncd.domains.reconciliation.event_repository import EPOCH, MICROSECOND, EventRepository, ResumePoint, events_gone
from vsyncd.domains.reconciliation.messages import event_message, read_group, vsync_message
from vsyncd.domains.reconciliation.records import KEY_TYPES
from vsyncd.observability.metrics import WATCHED_EVENTS

_MAX_RANGE: Final = timedelta(days=31)
# Between two queries for new events, and between two messages if there are none.
POLL_INTERVAL_S: Final = 0.2
_HEARTBEAT_S: Final = 10.0
BATCH_EVENTS: Final = 1_000
# The content of a page token: transaction id and sequence number of the last event, the last transaction id of the
# range, its end in microseconds since 1970, the number of remaining events, and the feed id.
_PAGE_TOKEN: Final = struct.Struct("!QQQqQ16s")


class EventStreams:
    """Serves the events of the CID set."""

    def __init__(self, repository: EventRepository) -> None:
        self._repository = repository

    async def page(self, request: pb.ListCidEventsRequest, scope: Scope) -> pb.ListCidEventsResponse:
        """Returns one page of a time range. Raises InvalidFields, IspbDenied, OutOfRange (EVENTS_GONE)."""
        with Validator() as validator:
            group = read_group(request, "", validator)
            from_time, to_time = _read_range(request, validator)
            size = validator.page_size(request.page_size)
        token_scope = ("ListCidEvents", *group, from_time, request.created_before.ToJsonString())
        response = pb.ListCidEventsResponse()
        if request.page_token:
            transaction_id, sequence, last, end, remaining, feed = _PAGE_TOKEN.unpack(
                decode_page_token(request.page_token, *token_scope)
            )
            to_time, feed_id = EPOCH + end * MICROSECOND, UUID(bytes=feed)
        else:
            found = await self._repository.summarize(group, from_time, to_time, scope=scope)
            transaction_id, sequence, last = found.first, 0, found.last
            remaining, feed_id = found.events, found.feed_id
            response.vsync_before.CopyFrom(vsync_message(found.vsync_before))
            response.vsync_after.CopyFrom(vsync_message(found.vsync_after))
        if not last:
            return response
        events = await self._repository.page(
            group,
            from_time,
            to_time,
            feed_id=feed_id,
            after=(transaction_id, sequence),
            last=last,
            limit=size + 1,
            scope=scope,
        )
        response.events.extend(map(event_message, events[:size]))
        remaining -= len(response.events)
        if (remaining > 0) != (len(events) > size):
            raise events_gone()
        if remaining:
            end = (to_time - EPOCH) // MICROSECOND
            event = response.events[-1]
            token = _PAGE_TOKEN.pack(event.transaction_id, event.sequence, last, end, remaining, feed_id.bytes)
            response.next_page_token = encode_page_token(token, *token_scope)
        return response

    async def watch(self, request: pb.WatchCidEventsRequest, scope: Scope) -> AsyncGenerator[pb.WatchCidEventsResponse]:
        """Yields events until the call ends. Raises InvalidFields, IspbDenied, OutOfRange (EVENTS_GONE)."""
        with Validator() as validator:
            ispb = validator.ispb("ispb", request.ispb, optional=True) or None
            key_type = validator.choice("key_type", request.key_type, KEY_TYPES, optional=True) or None
        token_scope = ("WatchCidEvents", ispb, key_type)
        scope.narrow(ispb)  # raises IspbDenied before the first message
        token = request.resume_token
        start = await self._repository.start_watch(
            ResumePoint.decode(decode_token(token, *token_scope, field="resume_token")) if token else None
        )
        # Horizon 0: there may be events above the resume point although the horizon is unchanged.
        point, seen = start.resume_point, start.horizon._replace(transaction_id=0)
        yield pb.WatchCidEventsResponse(
            resume_token=encode_token(point.encode(), *token_scope),
            consistency_token=start.wal_position.encode() if start.wal_position else "",
        )
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        while True:
            batch = await self._repository.next_batch(
                point, ispb=ispb, key_type=key_type, limit=BATCH_EVENTS, seen=seen, scope=scope
            )
            events, has_more = (batch.events, batch.has_more) if batch else ([], False)
            if batch:
                point = batch.resume_point
                seen = batch.horizon._replace(transaction_id=0) if has_more else batch.horizon
            if events or clock() - sent_at >= _HEARTBEAT_S:
                yield pb.WatchCidEventsResponse(
                    events=map(event_message, events), resume_token=encode_token(point.encode(), *token_scope)
                )
                sent_at = clock()
                WATCHED_EVENTS.inc(len(events))
            if not has_more:
                await asyncio.sleep(POLL_INTERVAL_S)


def _read_range(request: pb.ListCidEventsRequest, validator: Validator) -> tuple[datetime, datetime]:
    if not request.HasField("created_after"):
        validator.add("created_after", "is required")
    from_time = validator.time("created_after", request.created_after)
    if not request.HasField("created_before"):
        # Computed from the difference, because from_time + _MAX_RANGE may be later than the year 9999.
        return from_time, from_time + max(timedelta(), min(_MAX_RANGE, datetime.now(UTC) - from_time))
    to_time = validator.time("created_before", request.created_before)
    if not timedelta() <= to_time - from_time <= _MAX_RANGE:
        validator.add("created_before", "must be at most 31 days after created_after, and not before it")
    return from_time, to_time
