"""DiffCidSet as a resumable stream: uploads the CIDs of a file and downloads the differences."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from vsync.cid_codec import CID_BYTES, xor_of
from vsync.consistency import CONSISTENCY_KEY
from vsync.directory import vsync_text
from vsync.errors import CallError, DiffIncompleteError, VsyncError
from vsync.reconnect import DEFAULT_RECONNECT_TIMEOUT_S, Reconnect
from vsync.streams import AnyCall, ResumableStream
from vsync.v1 import cid_pb2
from vsync.v1.reconciliation_pb2 import DiffCidSetRequest, DiffCidSetResponse, DiffEnd, DiffStart, DiffSummary

# The server sends nothing while it sorts and compares. It limits the duration itself, and keepalive detects a lost
# connection.
MAX_SILENCE_S = math.inf


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """The set to compare with: a participant (8 digits) and a key type, at the time when the file was created."""

    ispb: str
    key_type: cid_pb2.KeyType.ValueType
    file_created_at: datetime
    """With an offset, or UTC."""
    consistency: str = ""
    """strong: compare with the primary; eventual: with a replica; empty: the server's default."""
    reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S
    """Seconds for which the client tries again until the server accepts the comparison. 0: one attempt."""


class DiffStream(ResumableStream[DiffCidSetResponse, DiffCidSetResponse]):
    """A comparison: yields progress, parts, and the summary, which is checked against the parts.

    Nothing is uploaded before the server has accepted the start, so a refusal arrives before the file is read. A
    comparison that was accepted cannot be resumed.
    """

    def __init__(self, packed: Iterable[bytes], options: DiffOptions) -> None:
        """`packed`: packed CIDs, for example a CidFile."""
        super().__init__(Reconnect(options.reconnect_timeout, max_silence=MAX_SILENCE_S))
        self._packed = packed
        self._options = options
        self._xor = 0
        self._counts: dict[int, int] = {}
        self._upload_error: VsyncError | OSError | None = None
        self._upload_began = False
        self._has_summary = False

    def call(self, method: Callable[..., AnyCall], requests: object, /) -> AnyCall:
        consistency = self._options.consistency
        return method(requests, metadata=((CONSISTENCY_KEY, consistency),) if consistency else ())

    def begin(self) -> Sequence[DiffCidSetRequest]:
        """Returns the start."""
        start = DiffStart(ispb=self._options.ispb, key_type=self._options.key_type)
        start.file_created_at.FromDatetime(self._options.file_created_at)
        return [DiffCidSetRequest(start=start)]

    def requests(self) -> Iterable[DiffCidSetRequest]:
        """Returns the whole upload after the first answer."""
        if self._upload_began:
            return ()
        self._upload_began = True
        return self._upload()

    @property
    def upload_complete(self) -> bool:
        """Whether the upload was returned."""
        return self._upload_began

    def received(self, answer: DiffCidSetResponse) -> DiffCidSetResponse:
        """Checks the summary against the parts. Raises DiffIncompleteError."""
        self.reconnect.received()
        self.reconnect.disable()
        if answer.HasField("part"):
            part = answer.part
            self._xor ^= xor_of(part.cids)
            self._counts[part.kind] = self._counts.get(part.kind, 0) + len(part.cids) // CID_BYTES
        elif answer.HasField("summary"):
            self._check(answer.summary)
        return answer

    def ended(self) -> None:
        """Raises DiffIncompleteError if the stream had no summary."""
        if not self._has_summary:
            raise DiffIncompleteError("the stream of differences ended without a summary")

    def failed(self, error: CallError) -> None:
        """Raises the error that ended the upload, if there was one."""
        if self._upload_error is not None:
            raise self._upload_error from error

    def _upload(self) -> Iterator[DiffCidSetRequest]:
        """Yields the CIDs and then their number. Omits the number if the file cannot be read to its end."""
        sent = 0
        try:
            for cids in self._packed:
                sent += len(cids) // CID_BYTES
                yield DiffCidSetRequest(cids=cids)
        except (VsyncError, OSError) as error:
            # gRPC iterates over requests in its own thread or task, where an error would be lost.
            self._upload_error = error
            return
        yield DiffCidSetRequest(end=DiffEnd(count=sent))

    def _check(self, summary: DiffSummary) -> None:
        expected = (summary.missing_here, summary.missing_there, summary.removed_since, summary.added_since)
        received = tuple(self._counts.get(kind, 0) for kind in range(1, 5))
        ours, theirs = int(summary.our_vsync.vsync, 16), int(summary.their_vsync.vsync, 16)
        if expected != received or self._xor != ours ^ theirs or summary.differences_vsync != vsync_text(self._xor):
            raise DiffIncompleteError("the differences received do not match their summary")
        self._has_summary = True
