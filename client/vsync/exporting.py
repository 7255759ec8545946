"""ExportCids as a resumable stream."""

from collections.abc import Callable

from vsync.consistency import not_older_than
from vsync.reconnect import DEFAULT_RECONNECT_TIMEOUT_S, Reconnect
from vsync.streams import AnyCall, ResumableStream
from vsync.v1 import cid_pb2


class ExportStream(ResumableStream[cid_pb2.ExportCidsResponse, cid_pb2.ExportCidsResponse]):
    """An export: yields every message once.

    A lost stream continues after the last message received. Later messages then have `resumed` set, because the rest
    is read in a new snapshot. With the `consistency_token` of the first message of WatchCidEvents, the export contains
    everything before that message.
    """

    def __init__(
        self,
        request: cid_pb2.ExportCidsRequest,
        *,
        consistency_token: str | None = None,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S,
    ) -> None:
        super().__init__(Reconnect(reconnect_timeout))
        self.request = cid_pb2.ExportCidsRequest()
        self.request.CopyFrom(request)
        self._metadata = not_older_than(consistency_token)

    def call(self, method: Callable[..., AnyCall], _requests: object, /) -> AnyCall:
        """Requests everything after the last message."""
        return method(self.request, metadata=self._metadata)

    def received(self, answer: cid_pb2.ExportCidsResponse) -> cid_pb2.ExportCidsResponse:
        """Saves the resume token. A message without a new token, such as a stream's first, is no progress."""
        token = answer.resume_token or self.request.resume_token
        self.reconnect.received(progress=token != self.request.resume_token)
        self.request.resume_token = token
        return answer
