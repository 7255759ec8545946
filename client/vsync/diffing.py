"""DiffCidSet: a file's CIDs up, the differences down, and the check that none was lost on the way."""

import asyncio
import math
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from vsync.cid_codec import CID_BYTES, xor_of
from vsync.consistency import CONSISTENCY_KEY
from vsync.directory import vsync_text
from vsync.errors import CallError, DifferencesIncomplete, VsyncError
from vsync.reconnect import DEFAULT_PATIENCE_S, OnWait, Reconnect, ignore_wait
from vsync.streams import AsyncMessages, Messages, run_attempts, run_attempts_async
from vsync.v1 import cid_pb2, reconciliation_pb2

if TYPE_CHECKING:
    from vsync.v1.reconciliation_pb2_grpc import ReconciliationServiceAsyncStub, ReconciliationServiceStub

Request = reconciliation_pb2.DiffCidSetRequest
Answer = reconciliation_pb2.DiffCidSetResponse

# The server sends nothing while it sorts and compares. It limits the time of a comparison itself, and keepalive
# detects a lost connection.
QUIET_S = math.inf


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """What is compared: the set of a participant (8 digits) and key type, with a file that was made at this time."""

    ispb: str
    key_type: cid_pb2.KeyType.ValueType
    file_created_at: datetime
    """With an offset, or UTC."""
    consistency: str = ""
    """Of what it is compared with: strong (of the primary), eventual (of a replica); empty: as the server does it."""
    patience: float = DEFAULT_PATIENCE_S
    """Seconds for which the comparison is tried again while the server has not accepted it. 0: one attempt."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What the call brings."""
        return ((CONSISTENCY_KEY, self.consistency),) if self.consistency else ()


class Diff:
    """One comparison: gives the requests, and takes the answers."""

    def __init__(self, packed: Iterable[bytes], options: DiffOptions) -> None:
        self._packed = packed
        self._options = options
        self._xor = 0
        self._counts: dict[int, int] = {}
        self._failure: VsyncError | OSError | None = None
        self._summarised = False

    def start(self) -> Request:
        """The first request."""
        start = reconciliation_pb2.DiffStart(ispb=self._options.ispb, key_type=self._options.key_type)
        start.file_created_at.FromDatetime(self._options.file_created_at)
        return reconciliation_pb2.DiffCidSetRequest(start=start)

    def upload(self) -> Iterator[Request]:
        """The CIDs, and the end with their number: without the end when the file cannot be read on."""
        sent = 0
        try:
            for cids in self._packed:
                sent += len(cids) // CID_BYTES
                yield reconciliation_pb2.DiffCidSetRequest(cids=cids)
        except (VsyncError, OSError) as error:
            # gRPC takes the requests in a thread or task of its own, where nobody would hear of it.
            self._failure = error
            return
        yield reconciliation_pb2.DiffCidSetRequest(end=reconciliation_pb2.DiffEnd(count=sent))

    def received(self, answer: Answer) -> Answer:
        """Checks the summary against what came before it. Raises DifferencesIncomplete."""
        if answer.HasField("part"):
            part = answer.part
            self._xor ^= xor_of(part.cids)
            self._counts[part.kind] = self._counts.get(part.kind, 0) + len(part.cids) // CID_BYTES
        elif answer.HasField("summary"):
            self._check(answer.summary)
        return answer

    def end(self) -> None:
        """The stream has ended well. Raises DifferencesIncomplete when it did so without a summary."""
        if not self._summarised:
            raise DifferencesIncomplete("the differences ended without a summary")

    def raise_failure(self, error: CallError) -> None:
        """Raises the error that ended the upload, if there is one: it is the cause of the call's error."""
        if self._failure is not None:
            raise self._failure from error

    def _check(self, summary: reconciliation_pb2.DiffSummary) -> None:
        told = (summary.missing_here, summary.missing_there, summary.removed_since, summary.added_since)
        came = tuple(self._counts.get(kind, 0) for kind in range(1, 5))
        ours, theirs = int(summary.our_vsync.vsync, 16), int(summary.their_vsync.vsync, 16)
        if told != came or self._xor != ours ^ theirs or summary.differences_vsync != vsync_text(self._xor):
            raise DifferencesIncomplete("the differences are not those that the summary is of")
        self._summarised = True


def run_diff(
    stub: "ReconciliationServiceStub",
    packed: Iterable[bytes],
    options: DiffOptions,
    *,
    on_wait: OnWait = ignore_wait,
) -> Iterator[Answer]:
    """Gives every answer: progress, parts, and the summary, which is checked.

    Nothing is uploaded before the server has accepted the start, so a refusal arrives before the file is read. Until
    then a lost stream is opened again, and `on_wait` is called. A comparison that has begun cannot be resumed. Raises
    CallError, DifferencesIncomplete, and what reading `packed` raises.
    """
    diff, reconnect = Diff(packed, options), Reconnect(options.patience, quiet=QUIET_S)
    return run_attempts(lambda: _one_diff(stub, diff, options, reconnect), reconnect, on_wait)


def _one_diff(
    stub: "ReconciliationServiceStub", diff: Diff, options: DiffOptions, reconnect: Reconnect
) -> Generator[Answer]:
    accepted: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def requests() -> Iterator[Request]:
        yield diff.start()
        if accepted.get():
            yield from diff.upload()

    with closing(Messages(stub.DiffCidSet(requests(), metadata=options.metadata), reconnect)) as answers:
        try:
            for answer in answers:
                reconnect.received()
                reconnect.forbid()
                accepted.put(True)
                yield diff.received(answer)
            diff.end()
        except CallError as error:
            diff.raise_failure(error)
            raise
        finally:
            accepted.put(False)


def run_diff_async(
    stub: "ReconciliationServiceAsyncStub",
    packed: Iterable[bytes],
    options: DiffOptions,
    *,
    on_wait: OnWait = ignore_wait,
) -> AsyncIterator[Answer]:
    """As run_diff, for asyncio."""
    diff, reconnect = Diff(packed, options), Reconnect(options.patience, quiet=QUIET_S)
    return run_attempts_async(lambda: _one_async_diff(stub, diff, options, reconnect), reconnect, on_wait)


async def _one_async_diff(
    stub: "ReconciliationServiceAsyncStub", diff: Diff, options: DiffOptions, reconnect: Reconnect
) -> AsyncGenerator[Answer]:
    accepted: asyncio.Queue[bool] = asyncio.Queue()

    async def requests() -> AsyncIterator[Request]:
        yield diff.start()
        if await accepted.get():
            for request in diff.upload():
                yield request

    async with aclosing(AsyncMessages(stub.DiffCidSet(requests(), metadata=options.metadata), reconnect)) as answers:
        try:
            async for answer in answers:
                reconnect.received()
                reconnect.forbid()
                accepted.put_nowait(True)
                yield diff.received(answer)
            diff.end()
        except CallError as error:
            diff.raise_failure(error)
            raise
        finally:
            accepted.put_nowait(False)
