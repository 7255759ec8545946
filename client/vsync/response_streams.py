"""The methods with one request and a response stream, as resumable streams: ExportCids, WatchCidEvents, WatchHealth."""

import math
from collections.abc import Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

from vsync.health.v1 import health_pb2
from vsync.reconnect import Reconnect, stream_ended
from vsync.streams import Answer, AnyCall, ResumableStream
from vsync.v1 import cid_pb2, reconciliation_pb2

Request = TypeVar("Request", bound=Message)


class _ResponseStream(ResumableStream[Answer, Answer], Generic[Request, Answer]):
    """Sends a copy of the request in each attempt. Yields every answer. The stream has no end of its own."""

    max_silence: float | None = None
    """See Reconnect."""

    def __init__(
        self, request: Request, *, reconnect_timeout: float, metadata: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(Reconnect(reconnect_timeout, max_silence=self.max_silence))
        self.request = type(request)()
        self.request.CopyFrom(request)
        self._metadata = metadata

    def call(self, method: Callable[..., AnyCall], _requests: object, /) -> AnyCall:
        return method(self.request, metadata=self._metadata)

    def received(self, answer: Answer) -> Answer:
        self.reconnect.received()
        return answer

    def ended(self) -> None:
        """Raises UnavailableError: the stream was lost."""
        raise stream_ended()


class ExportStream(_ResponseStream[cid_pb2.ExportCidsRequest, cid_pb2.ExportCidsResponse]):
    """An export: yields every message once.

    A lost stream continues after the last message received. Later messages then have `resumed` set, because the rest
    is read in a new snapshot. With the `consistency_token` of the first message of WatchCidEvents in its metadata, the
    export contains everything before that message.
    """

    def received(self, answer: cid_pb2.ExportCidsResponse) -> cid_pb2.ExportCidsResponse:
        """Saves the resume token. A message without a new token, such as a stream's first, is no progress."""
        token = answer.resume_token or self.request.resume_token
        self.reconnect.received(progress=token != self.request.resume_token)
        self.request.resume_token = token
        return answer

    def ended(self) -> None:
        """Accepts the end of the stream."""


class CidEventStream(
    _ResponseStream[reconciliation_pb2.WatchCidEventsRequest, reconciliation_pb2.WatchCidEventsResponse]
):
    """A watch of events: yields each event once. A lost stream continues after the last message received."""

    max_silence = 30.0  # the server sends a message at least every 10 s

    def received(self, answer: reconciliation_pb2.WatchCidEventsResponse) -> reconciliation_pb2.WatchCidEventsResponse:
        """Saves the resume token."""
        self.request.resume_token = answer.resume_token
        return super().received(answer)


class HealthStream(_ResponseStream[health_pb2.HealthRequest, health_pb2.HealthResponse]):
    """A watch of health: yields the present state, then each change. A new attempt begins with the present state."""

    max_silence = math.inf  # while nothing changes: only keepalive detects a lost connection
