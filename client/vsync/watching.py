"""Watches: WatchCidEvents and WatchHealth, through lost streams."""

import math
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from vsync.health.v1 import health_pb2
from vsync.reconnect import DEFAULT_PATIENCE_S, OnWait, Reconnect, ignore_wait
from vsync.streams import read_stream, read_stream_async
from vsync.v1 import reconciliation_pb2

if TYPE_CHECKING:
    from vsync.health.v1.health_pb2_grpc import HealthAsyncStub, HealthStub
    from vsync.v1.reconciliation_pb2_grpc import ReconciliationServiceAsyncStub, ReconciliationServiceStub

# WatchCidEvents sends a message at least every 10 s. WatchHealth is silent while nothing changes: keepalive alone
# detects that its connection is lost.
EVENTS_QUIET_S = 30.0
HEALTH_QUIET_S = math.inf


class EventsCursor:
    """The position of a watch: the request for everything after the last message received."""

    def __init__(self, request: reconciliation_pb2.WatchCidEventsRequest, reconnect: Reconnect) -> None:
        self.request = reconciliation_pb2.WatchCidEventsRequest()
        self.request.CopyFrom(request)
        self._reconnect = reconnect

    def received(self, answer: reconciliation_pb2.WatchCidEventsResponse) -> None:
        """Remembers the message's token."""
        self.request.resume_token = answer.resume_token
        self._reconnect.received()


def run_watch_events(
    stub: "ReconciliationServiceStub",
    request: reconciliation_pb2.WatchCidEventsRequest,
    *,
    patience: float = DEFAULT_PATIENCE_S,
    on_wait: OnWait = ignore_wait,
) -> Iterator[reconciliation_pb2.WatchCidEventsResponse]:
    """Gives the messages of WatchCidEvents without an end: each event once, none left out.

    A lost stream is opened again after the last message received. `on_wait` is called after each loss. Raises
    CallError when the server refuses (OutOfRange: read the set anew), or stays unreachable for `patience` seconds.
    """
    reconnect = Reconnect(patience, quiet=EVENTS_QUIET_S)
    cursor = EventsCursor(request, reconnect)
    return read_stream(lambda: stub.WatchCidEvents(cursor.request), cursor.received, reconnect, on_wait, endless=True)


def run_watch_events_async(
    stub: "ReconciliationServiceAsyncStub",
    request: reconciliation_pb2.WatchCidEventsRequest,
    *,
    patience: float = DEFAULT_PATIENCE_S,
    on_wait: OnWait = ignore_wait,
) -> AsyncIterator[reconciliation_pb2.WatchCidEventsResponse]:
    """As run_watch_events, for asyncio."""
    reconnect = Reconnect(patience, quiet=EVENTS_QUIET_S)
    cursor = EventsCursor(request, reconnect)
    return read_stream_async(
        lambda: stub.WatchCidEvents(cursor.request), cursor.received, reconnect, on_wait, endless=True
    )


def run_watch_health(
    stub: "HealthStub",
    request: health_pb2.HealthRequest,
    *,
    patience: float = DEFAULT_PATIENCE_S,
    on_wait: OnWait = ignore_wait,
) -> Iterator[health_pb2.HealthResponse]:
    """Gives the present state, then each change, without an end. After a lost stream the present state is given again.

    `on_wait` is called after each loss: the server is unreachable then. Raises CallError when the server refuses, or
    stays unreachable for `patience` seconds.
    """
    reconnect = Reconnect(patience, quiet=HEALTH_QUIET_S)
    return read_stream(
        lambda: stub.WatchHealth(request), lambda _: reconnect.received(), reconnect, on_wait, endless=True
    )


def run_watch_health_async(
    stub: "HealthAsyncStub",
    request: health_pb2.HealthRequest,
    *,
    patience: float = DEFAULT_PATIENCE_S,
    on_wait: OnWait = ignore_wait,
) -> AsyncIterator[health_pb2.HealthResponse]:
    """As run_watch_health, for asyncio."""
    reconnect = Reconnect(patience, quiet=HEALTH_QUIET_S)
    return read_stream_async(
        lambda: stub.WatchHealth(request), lambda _: reconnect.received(), reconnect, on_wait, endless=True
    )
