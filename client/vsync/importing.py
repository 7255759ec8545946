"""Imports: any number of records over ImportCids, in chunks, through lost streams.

The window is plain state; the two drivers at the end move it over a stream, one for each kind of channel.
"""

import asyncio
import queue
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from vsync.errors import CallError, VsyncError
from vsync.reconnect import DEFAULT_PATIENCE_S, OnWait, Reconnect, ignore_wait
from vsync.rpc_status import Violation
from vsync.streams import AsyncMessages, Messages, run_attempts, run_attempts_async
from vsync.v1 import cid_pb2

if TYPE_CHECKING:
    from vsync.v1.cid_pb2_grpc import CidServiceAsyncStub, CidServiceStub

MAX_CHUNK = 1000
MAX_MESSAGE_BYTES = 4 * 1024**2
"""What a server takes, unless it is set up otherwise."""
# What tags, lengths and the number take at most: of a chunk in its message, and of a record in its chunk.
_CHUNK_FRAME, _RECORD_FRAME = 16, 5


def fits(record: cid_pb2.CidRecord) -> bool:
    """Whether a message can hold the record."""
    return record.ByteSize() <= MAX_MESSAGE_BYTES - _CHUNK_FRAME - _RECORD_FRAME


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How to import."""

    import_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    """Names the import. With the id of an earlier one, the same records and the same options, it is gone on with."""
    on_conflict: cid_pb2.OnConflict.ValueType = cid_pb2.ON_CONFLICT_SKIP
    initial_sync_status: cid_pb2.SyncStatus.ValueType = cid_pb2.SYNC_STATUS_PENDING
    chunk_size: int = MAX_CHUNK
    """Records a transaction, 1 to 1,000; fewer where they are too large for one message. Must stay the same for one
    import id."""
    window: int = 4
    """Chunks that may be under way at once."""
    patience: float = DEFAULT_PATIENCE_S
    """Seconds without progress after which the import fails. 0: after the first lost stream."""

    def __post_init__(self) -> None:
        """Raises ValueError for sizes out of range."""
        if not 1 <= self.chunk_size <= MAX_CHUNK:
            raise ValueError(f"chunk_size is 1 to {MAX_CHUNK}")
        if self.window < 1:
            raise ValueError("window is 1 or more")

    def start(self) -> cid_pb2.ImportCidsRequest:
        """The stream's first message."""
        return cid_pb2.ImportCidsRequest(
            start=cid_pb2.ImportStart(
                import_id=self.import_id,
                on_conflict=self.on_conflict,
                initial_sync_status=self.initial_sync_status,
            )
        )


class Rejection(NamedTuple):
    """A record that was not taken."""

    position: int
    """As it was given with the record; without one, its place in the input from 1."""
    record: cid_pb2.CidRecord
    reason: str
    """INVALID_FIELD, DUPLICATE_IN_CHUNK or CID_EXISTS."""
    violations: tuple[Violation, ...]


@dataclass(frozen=True, kw_only=True)
class ImportProgress:
    """Where an import stands after a chunk was committed."""

    number: int = 0
    """The last chunk that is committed."""
    records: int = 0
    """Records answered for in this run; those of a resumed import's earlier chunks too, once they are sent again."""
    inserted: int = 0
    skipped: int = 0
    replaced: int = 0
    rejected: int = 0
    rejections: tuple[Rejection, ...] = ()
    """Of this chunk."""
    committed_before: int = 0
    """The last chunk that was committed before this run."""
    streams: int = 0
    """How many streams it took so far: 1 when none was lost."""


class Chunk(NamedTuple):
    """Records on their way."""

    positions: tuple[int, ...]
    request: cid_pb2.ImportCidsRequest


class ImportWindow:
    """The chunks that are sent and not yet answered. A chunk is kept until its answer is there, to be sent again."""

    def __init__(self, records: Iterable[tuple[int, cid_pb2.CidRecord]], options: ImportOptions) -> None:
        """A record that does not fit into a message is sent alone, for the server to say so."""
        self._records = iter(records)
        self._held: tuple[int, cid_pb2.CidRecord] | None = None
        """Read, and too much for the chunk before."""
        self._options = options
        self._under_way: deque[Chunk] = deque()
        self._sent = 0
        self._last_number = 0
        self._exhausted = False
        self.progress = ImportProgress()

    def opened(self, answer: cid_pb2.ImportCidsResponse) -> None:
        """A stream was opened: what was under way is to be sent again."""
        self._sent = 0
        first = self.progress.streams == 0
        before = answer.number if first else self.progress.committed_before
        self.progress = replace(self.progress, streams=self.progress.streams + 1, committed_before=before)

    def next_request(self) -> cid_pb2.ImportCidsRequest | None:
        """The next chunk to send; None while the window is full, or when there is nothing left to send."""
        if self._sent == len(self._under_way):
            if self._exhausted or len(self._under_way) == self._options.window:
                return None
            chunk = self._read_chunk()
            if chunk is None:
                return None
            self._under_way.append(chunk)
        self._sent += 1
        return self._under_way[self._sent - 1].request

    def acknowledge(self, answer: cid_pb2.ImportCidsResponse) -> ImportProgress:
        """Takes the answer to the oldest chunk under way. Raises VsyncError when it is not that chunk's."""
        if not self._sent or answer.number != self._under_way[0].request.chunk.number:
            raise VsyncError("the server answered a chunk that was not sent")
        chunk = self._under_way.popleft()
        self._sent -= 1
        self.progress = replace(
            self.progress,
            number=answer.number,
            records=self.progress.records + len(chunk.positions),
            inserted=self.progress.inserted + answer.inserted,
            skipped=self.progress.skipped + answer.skipped,
            replaced=self.progress.replaced + answer.replaced,
            rejected=self.progress.rejected + len(answer.rejected),
            rejections=tuple(_rejection(chunk, rejected) for rejected in answer.rejected),
        )
        return self.progress

    @property
    def done(self) -> bool:
        """Whether everything was sent and answered. Only then can next_request not give more."""
        return self._exhausted and not self._under_way

    def position_of(self, error: CallError) -> int | None:
        """The position of the record that ended the stream, when the error says which of its chunk it was."""
        index = error.metadata.get("index", "")
        if not self._under_way or not index.isdecimal():
            return None
        positions = self._under_way[0].positions
        return positions[int(index)] if int(index) < len(positions) else None

    def _read_chunk(self) -> Chunk | None:
        numbered = self._read_records()
        if not numbered:
            return None
        self._last_number += 1
        positions, records = zip(*numbered, strict=True)
        chunk = cid_pb2.ImportChunk(number=self._last_number, records=records)
        return Chunk(positions, cid_pb2.ImportCidsRequest(chunk=chunk))

    def _read_records(self) -> list[tuple[int, cid_pb2.CidRecord]]:
        numbered: list[tuple[int, cid_pb2.CidRecord]] = []
        room = MAX_MESSAGE_BYTES - _CHUNK_FRAME
        while len(numbered) < self._options.chunk_size:
            entry, self._held = self._held or next(self._records, None), None
            if entry is None:
                self._exhausted = True
                break
            room -= entry[1].ByteSize() + _RECORD_FRAME
            if room < 0 and numbered:
                self._held = entry
                break
            numbered.append(entry)
        return numbered


def _rejection(chunk: Chunk, rejected: cid_pb2.RejectedRecord) -> Rejection:
    return Rejection(
        position=chunk.positions[rejected.index],
        record=chunk.request.chunk.records[rejected.index],
        reason=rejected.reason,
        violations=tuple(Violation(bad.field, bad.description) for bad in rejected.violations),
    )


def run_import(
    stub: "CidServiceStub", window: ImportWindow, options: ImportOptions, *, on_wait: OnWait = ignore_wait
) -> Iterator[ImportProgress]:
    """Sends the window's records, and gives the progress after each committed chunk.

    A lost stream is opened again and continues after the last acknowledged chunk; `on_wait` is called after each loss.
    Raises CallError when the server refuses, or when the options' patience passes without progress.
    """
    reconnect = Reconnect(options.patience)
    return run_attempts(lambda: _one_stream(stub, window, options, reconnect), reconnect, on_wait)


def _one_stream(
    stub: "CidServiceStub", window: ImportWindow, options: ImportOptions, reconnect: Reconnect
) -> Generator[ImportProgress]:
    requests: queue.SimpleQueue[cid_pb2.ImportCidsRequest | None] = queue.SimpleQueue()
    requests.put(options.start())
    with closing(Messages(stub.ImportCids(iter(requests.get, None)), reconnect)) as answers:
        try:
            window.opened(next(answers))
            reconnect.received(progress=False)
            while True:
                while (request := window.next_request()) is not None:
                    requests.put(request)
                if window.done:
                    break
                progress = window.acknowledge(next(answers))
                reconnect.received()
                yield progress
            requests.put(None)
            for _ in answers:
                raise VsyncError("the server answered more than it was asked")
        except StopIteration as stop:
            raise VsyncError("the server ended the import early") from stop
        finally:
            requests.put(None)


def run_import_async(
    stub: "CidServiceAsyncStub", window: ImportWindow, options: ImportOptions, *, on_wait: OnWait = ignore_wait
) -> AsyncIterator[ImportProgress]:
    """As run_import, for asyncio."""
    reconnect = Reconnect(options.patience)
    return run_attempts_async(lambda: _one_async_stream(stub, window, options, reconnect), reconnect, on_wait)


async def _one_async_stream(
    stub: "CidServiceAsyncStub", window: ImportWindow, options: ImportOptions, reconnect: Reconnect
) -> AsyncGenerator[ImportProgress]:
    requests: asyncio.Queue[cid_pb2.ImportCidsRequest | None] = asyncio.Queue()
    requests.put_nowait(options.start())
    async with aclosing(AsyncMessages(stub.ImportCids(_until_none(requests)), reconnect)) as answers:
        try:
            window.opened(await anext(answers))
            reconnect.received(progress=False)
            while True:
                while (request := window.next_request()) is not None:
                    requests.put_nowait(request)
                if window.done:
                    break
                progress = window.acknowledge(await anext(answers))
                reconnect.received()
                yield progress
            requests.put_nowait(None)
            async for _ in answers:
                raise VsyncError("the server answered more than it was asked")
        except StopAsyncIteration as stop:
            raise VsyncError("the server ended the import early") from stop
        finally:
            requests.put_nowait(None)


async def _until_none(
    requests: asyncio.Queue[cid_pb2.ImportCidsRequest | None],
) -> AsyncIterator[cid_pb2.ImportCidsRequest]:
    while (request := await requests.get()) is not None:
        yield request
