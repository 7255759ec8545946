"""WatchCidEvents and WatchHealth as resumable streams. Neither has an end of its own."""

import math
from collections.abc import Callable

from vsync.health.v1 import health_pb2
from vsync.reconnect import DEFAULT_RECONNECT_TIMEOUT_S, Reconnect, stream_ended
from vsync.streams import AnyCall, ResumableStream
from vsync.v1 import reconciliation_pb2

# WatchCidEvents sends a message at least every 10 s. WatchHealth is silent while nothing changes: only keepalive
# detects a lost connection.
MAX_EVENTS_SILENCE_S = 30.0
MAX_HEALTH_SILENCE_S = math.inf


class CidEventStream(
    ResumableStream[reconciliation_pb2.WatchCidEventsResponse, reconciliation_pb2.WatchCidEventsResponse]
):
    """A watch of events: yields each event once. A lost stream continues after the last message received."""

    def __init__(
        self,
        request: reconciliation_pb2.WatchCidEventsRequest,
        *,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S,
    ) -> None:
        super().__init__(Reconnect(reconnect_timeout, max_silence=MAX_EVENTS_SILENCE_S))
        self.request = reconciliation_pb2.WatchCidEventsRequest()
        self.request.CopyFrom(request)

    def call(self, method: Callable[..., AnyCall], _requests: object, /) -> AnyCall:
        """Requests everything after the last message."""
        return method(self.request)

    def received(self, answer: reconciliation_pb2.WatchCidEventsResponse) -> reconciliation_pb2.WatchCidEventsResponse:
        """Saves the resume token."""
        self.request.resume_token = answer.resume_token
        self.reconnect.received()
        return answer

    def ended(self) -> None:
        """Raises UnavailableError: the stream was lost."""
        raise stream_ended()


class HealthStream(ResumableStream[health_pb2.HealthResponse, health_pb2.HealthResponse]):
    """A watch of health: yields the present state, then each change. A new attempt begins with the present state."""

    def __init__(
        self, request: health_pb2.HealthRequest, *, reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S
    ) -> None:
        super().__init__(Reconnect(reconnect_timeout, max_silence=MAX_HEALTH_SILENCE_S))
        self._request = request

    def call(self, method: Callable[..., AnyCall], _requests: object, /) -> AnyCall:
        """Requests the present state and its changes."""
        return method(self._request)

    def received(self, answer: health_pb2.HealthResponse) -> health_pb2.HealthResponse:
        """Returns the answer."""
        self.reconnect.received()
        return answer

    def ended(self) -> None:
        """Raises UnavailableError: the stream was lost."""
        raise stream_ended()
