"""ImportCids as a resumable stream: any number of records, in chunks that the server commits one by one."""

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from vsync.errors import CallError, FieldViolation, VsyncError
from vsync.reconnect import DEFAULT_RECONNECT_TIMEOUT_S, Reconnect
from vsync.streams import AnyCall, ResumableStream
from vsync.v1 import cid_pb2

MAX_CHUNK_RECORDS = 1000
MAX_MESSAGE_BYTES = 4 * 1024**2
"""The server's default limit."""
# The maximum size of tags, lengths and the number: of a chunk in its message, and of a record in its chunk.
_CHUNK_FRAME_BYTES, _RECORD_FRAME_BYTES = 16, 5


def fits(record: cid_pb2.CidRecord) -> bool:
    """Returns whether one message can hold the record."""
    return record.ByteSize() <= MAX_MESSAGE_BYTES - _CHUNK_FRAME_BYTES - _RECORD_FRAME_BYTES


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """The options of an import."""

    import_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    """Identifies the import. An earlier id, with the same records and the same options, resumes that import."""
    on_conflict: cid_pb2.OnConflict.ValueType = cid_pb2.ON_CONFLICT_SKIP
    initial_sync_status: cid_pb2.SyncStatus.ValueType = cid_pb2.SYNC_STATUS_PENDING
    chunk_size: int = MAX_CHUNK_RECORDS
    """Records per transaction, 1 to 1,000; fewer if they exceed the size of a message. Must not change for an id."""
    window: int = 4
    """The maximum number of chunks that are sent and not yet answered."""
    reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT_S
    """Seconds without progress after which the import fails. 0: do not reconnect."""

    def __post_init__(self) -> None:
        """Raises ValueError if a size is out of range."""
        if not 1 <= self.chunk_size <= MAX_CHUNK_RECORDS:
            raise ValueError(f"chunk_size must be 1 to {MAX_CHUNK_RECORDS}")
        if self.window < 1:
            raise ValueError("window must be 1 or more")

    def start(self) -> cid_pb2.ImportCidsRequest:
        """Returns the first message of a stream."""
        return cid_pb2.ImportCidsRequest(
            start=cid_pb2.ImportStart(
                import_id=self.import_id,
                on_conflict=self.on_conflict,
                initial_sync_status=self.initial_sync_status,
            )
        )


class ImportRejection(NamedTuple):
    """A record that the server rejected."""

    position: int
    """The number that was given with the record. `Client.import_records` counts from 1."""
    record: cid_pb2.CidRecord
    reason: str
    """INVALID_FIELD, DUPLICATE_IN_CHUNK or CID_EXISTS."""
    violations: tuple[FieldViolation, ...]


@dataclass(frozen=True, kw_only=True)
class ImportProgress:
    """The progress of an import after a committed chunk."""

    number: int = 0
    """The number of the last committed chunk."""
    records: int = 0
    """Records answered in this run. A resumed import also counts the earlier chunks, once they are sent again."""
    records_before: int = 0
    """Those of `records` whose chunks were committed before this run."""
    inserted: int = 0
    skipped: int = 0
    replaced: int = 0
    rejected: int = 0
    rejections: tuple[ImportRejection, ...] = ()
    """The rejected records of this chunk."""
    committed_before: int = 0
    """The number of the last chunk that was committed before this run."""
    streams: int = 0
    """The number of streams so far: 1 if no stream was lost."""


class _Chunk(NamedTuple):
    positions: tuple[int, ...]
    request: cid_pb2.ImportCidsRequest


class ImportStream(ResumableStream[cid_pb2.ImportCidsResponse, ImportProgress]):
    """An import: yields the progress after each committed chunk.

    A lost stream continues after the last answered chunk. Every chunk is kept until its answer arrives, to be sent
    again. A record that does not fit into a message is sent alone, so that the server rejects it.
    """

    def __init__(self, records: Iterable[tuple[int, cid_pb2.CidRecord]], options: ImportOptions) -> None:
        """`records`: each with its position, which rejections repeat."""
        super().__init__(Reconnect(options.reconnect_timeout))
        self._records = iter(records)
        self._next_record: tuple[int, cid_pb2.CidRecord] | None = None
        """A record that was read and did not fit into the last chunk."""
        self._options = options
        self._pending: deque[_Chunk] = deque()
        """The chunks without an answer; the first `_sent` of them were sent on this stream."""
        self._sent = 0
        self._last_number = 0
        self._exhausted = False
        self._opened = False
        self.progress = ImportProgress()

    def call(self, method: Callable[..., AnyCall], requests: object, /) -> AnyCall:
        return method(requests)

    def begin(self) -> Sequence[cid_pb2.ImportCidsRequest]:
        """Returns the start; every chunk without an answer is sent again after its acceptance."""
        self._opened = False
        self._sent = 0
        return [self._options.start()]

    def requests(self) -> Sequence[cid_pb2.ImportCidsRequest]:
        """Returns the chunks to send, until the window is full or no record is left. Raises what `records` raises."""
        while len(self._pending) < self._options.window and (chunk := self._read_chunk()) is not None:
            self._pending.append(chunk)
        requests = [chunk.request for chunk in list(self._pending)[self._sent :]]
        self._sent = len(self._pending)
        return requests

    @property
    def upload_complete(self) -> bool:
        """Whether every record was sent and answered."""
        return self._exhausted and not self._pending

    def received(self, answer: cid_pb2.ImportCidsResponse) -> ImportProgress | None:
        """Processes the acceptance of the start, or the answer to the oldest chunk. Raises VsyncError."""
        if not self._opened:
            self._opened = True
            self.reconnect.received(progress=False)
            before = self.progress.committed_before if self.progress.streams else answer.number
            self.progress = replace(self.progress, streams=self.progress.streams + 1, committed_before=before)
            return None
        if self.upload_complete:
            raise VsyncError("the server sent more answers than there were chunks")
        if not self._sent or answer.number != self._pending[0].request.chunk.number:
            raise VsyncError("the server answered a chunk that was not sent")
        self._sent -= 1
        self.reconnect.received()
        self.progress = self._progress_after(self._pending.popleft(), answer)
        return self.progress

    def ended(self) -> None:
        """Raises VsyncError if the server ended the import before its last chunk."""
        if not self.upload_complete:
            raise VsyncError("the server ended the import early")

    def position_of(self, error: CallError) -> int | None:
        """Returns the position of the record that ended the stream, if the error contains its index in the chunk."""
        index = error.metadata.get("index", "")
        if not self._pending or not index.isdecimal():
            return None
        positions = self._pending[0].positions
        return positions[int(index)] if int(index) < len(positions) else None

    def _progress_after(self, chunk: _Chunk, answer: cid_pb2.ImportCidsResponse) -> ImportProgress:
        before, count = self.progress, len(chunk.positions)
        return replace(
            before,
            number=answer.number,
            records=before.records + count,
            records_before=before.records_before + (count if answer.number <= before.committed_before else 0),
            inserted=before.inserted + answer.inserted,
            skipped=before.skipped + answer.skipped,
            replaced=before.replaced + answer.replaced,
            rejected=before.rejected + len(answer.rejected),
            rejections=tuple(
                ImportRejection(
                    position=chunk.positions[rejected.index],
                    record=chunk.request.chunk.records[rejected.index],
                    reason=rejected.reason,
                    violations=tuple(FieldViolation(bad.field, bad.description) for bad in rejected.violations),
                )
                for rejected in answer.rejected
            ),
        )

    def _read_chunk(self) -> _Chunk | None:
        numbered = self._read_records()
        if not numbered:
            return None
        self._last_number += 1
        positions, records = zip(*numbered, strict=True)
        chunk = cid_pb2.ImportChunk(number=self._last_number, records=records)
        return _Chunk(positions, cid_pb2.ImportCidsRequest(chunk=chunk))

    def _read_records(self) -> list[tuple[int, cid_pb2.CidRecord]]:
        numbered: list[tuple[int, cid_pb2.CidRecord]] = []
        free_bytes = MAX_MESSAGE_BYTES - _CHUNK_FRAME_BYTES
        while not self._exhausted and len(numbered) < self._options.chunk_size:
            entry, self._next_record = self._next_record or next(self._records, None), None
            if entry is None:
                self._exhausted = True
                break
            free_bytes -= entry[1].ByteSize() + _RECORD_FRAME_BYTES
            if free_bytes < 0 and numbered:
                self._next_record = entry
                break
            numbered.append(entry)
        return numbered
