"""DiffCidSet on the wire: an upload, its end, and what it differs in."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Final, NamedTuple, ParamSpec, TypeVar

from vsync.cid_codec import CID_BYTES
from vsync.v1 import reconciliation_pb2 as pb

from vsyncd.core.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from vsyncd.core.validation import Validator
from vsyncd.domains.reconciliation.comparisons import (
    ADDED_SINCE,
    MISSING_HERE,
    MISSING_THERE,
    REMOVED_SINCE,
    Comparer,
    Part,
    Summary,
)
from vsyncd.domains.reconciliation.external_sort import ExternalSort, SpillFull
from vsyncd.domains.reconciliation.messages import read_group, vsync_message
from vsyncd.domains.reconciliation.records import Group
from vsyncd.domains.reconciliation.snapshots import ReadSnapshots
from vsyncd.observability.metrics import DIFFED_CIDS
from vsyncd.resilience.tasks import in_thread

# CIDs between two messages of progress.
_PROGRESS: Final = 500_000

P = ParamSpec("P")
T = TypeVar("T")
Requests = AsyncIterator[pb.DiffCidSetRequest]
Responses = AsyncGenerator[pb.DiffCidSetResponse]


class Start(NamedTuple):
    """What is compared: a group, with a file of that time."""

    group: Group
    file_created_at: datetime


class DiffStream:
    """Serves comparisons. `folder`: of the spill files, None for the system's own; `most`: CIDs of an upload."""

    def __init__(self, snapshots: ReadSnapshots, comparer: Comparer, *, folder: str | None, most: int) -> None:
        self._snapshots = snapshots
        self._comparer = comparer
        self._folder = folder
        self._most = most

    async def responses(self, requests: Requests) -> Responses:
        """The messages of one comparison."""
        async with self._snapshots.place() as end:
            messages = _Upload(requests, end)
            start = _read_start(await messages.next())
            with await _on_disk(ExternalSort, self._folder) as spill:
                # Who waits for it is refused before he sends: grpc.aio's client loses the error of a stream that ends
                # while it writes (https://github.com/grpc/grpc/issues/36066).
                yield _progress(0)
                async with aclosing(self._take(messages, spill)) as progress:
                    async for response in progress:
                        yield response
                found = self._comparer.compare(start.group, spill, start.file_created_at)
                async with aclosing(_until(end, found)) as answers:
                    async for each in answers:
                        yield _part(each) if isinstance(each, Part) else _summary(each)

    async def _take(self, messages: "_Upload", spill: ExternalSort) -> Responses:
        """Takes everything up to the end, and says how far it has come.

        Raises DIFF_TRUNCATED, DIFF_TOO_LARGE, SPILL_FULL.
        """
        told = 0
        while (message := await messages.next()).WhichOneof("message") != "end":
            cids = _read_cids(message)
            if spill.received + len(cids) // CID_BYTES > self._most:
                limit = {"limit": str(self._most)}
                raise InvalidArgument("DIFF_TOO_LARGE", "These are more CIDs than are compared.", metadata=limit)
            await _on_disk(spill.add, cids)
            if spill.received - told >= _PROGRESS:
                told = spill.received
                yield _progress(told)
        if message.end.count != spill.received:
            raise _truncated(spill.received)
        await _on_disk(spill.finish)
        DIFFED_CIDS.inc(spill.received)
        yield _progress(spill.received)
        if await messages.more():
            raise InvalidArgument("DIFF_ENDED", "The end is the last message.")


class _Upload:
    """The requests of a stream, each waited for until `end`."""

    def __init__(self, requests: Requests, end: float) -> None:
        self._requests = aiter(requests)
        self._end = end
        self._received = 0

    async def next(self) -> pb.DiffCidSetRequest:
        """The next message.

        Raises DIFF_TRUNCATED when there is none, DIFF_TIMEOUT when time is over.
        """
        request = await self._next()
        if request is None:
            raise _truncated(self._received)
        self._received += len(request.cids) // CID_BYTES
        return request

    async def more(self) -> bool:
        """Whether there is another message."""
        return await self._next() is not None

    async def _next(self) -> pb.DiffCidSetRequest | None:
        try:
            async with asyncio.timeout_at(self._end):
                return await anext(self._requests, None)
        except TimeoutError as error:
            raise _too_long() from error


def _read_start(request: pb.DiffCidSetRequest) -> Start:
    if request.WhichOneof("message") != "start":
        raise InvalidArgument("DIFF_NOT_STARTED", "The first message of a comparison is its start.")
    validator = Validator()
    group = read_group(request.start, "start.", validator)
    if not request.start.HasField("file_created_at"):
        validator.add("start.file_created_at", "is required")
    at = validator.time("start.file_created_at", request.start.file_created_at)
    validator.raise_any()
    return Start(group, at)


def _read_cids(request: pb.DiffCidSetRequest) -> bytes:
    if request.WhichOneof("message") != "cids":
        raise InvalidArgument("DIFF_STARTED_TWICE", "Between its start and its end a comparison has CIDs only.")
    validator = Validator()
    if not request.cids or len(request.cids) % CID_BYTES:
        validator.add("cids", "must be packed CIDs of 32 bytes each, at least one")
    validator.raise_any()
    return request.cids


async def _on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of work with a spill file. Raises SPILL_FULL."""
    try:
        return await in_thread(work, *args, **kwargs)
    except SpillFull as error:
        raise ResourceExhausted(
            "SPILL_FULL", "There is no room on disk to sort the upload in.", retry_after=60.0
        ) from error


async def _until(end: float, items: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """These, each waited for until `end`. Raises DIFF_TIMEOUT."""
    async with aclosing(items):
        while True:
            try:
                async with asyncio.timeout_at(end):
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise _too_long() from error
            yield item


def _too_long() -> DeadlineExceeded:
    return DeadlineExceeded("DIFF_TIMEOUT", "The comparison took too long.")


def _truncated(received: int) -> InvalidArgument:
    message = "The upload ended before its end, or its end counts otherwise."
    return InvalidArgument("DIFF_TRUNCATED", message, metadata={"received": str(received)})


def _progress(received: int) -> pb.DiffCidSetResponse:
    return pb.DiffCidSetResponse(progress=pb.DiffProgress(received=received))


def _part(part: Part) -> pb.DiffCidSetResponse:
    return pb.DiffCidSetResponse(part=pb.DiffPart(kind=part.kind, cids=part.cids))  # type: ignore[arg-type]  # an enum's number


def _summary(summary: Summary) -> pb.DiffCidSetResponse:
    message = pb.DiffSummary(
        our_vsync=vsync_message(summary.ours),
        their_vsync=vsync_message(summary.theirs),
        duplicates=summary.duplicates,
        missing_here=summary.counts[MISSING_HERE],
        missing_there=summary.counts[MISSING_THERE],
        removed_since=summary.counts[REMOVED_SINCE],
        added_since=summary.counts[ADDED_SINCE],
        differences_vsync=summary.differences.hex(),
        kept_agrees=summary.kept_agrees,
    )
    message.snapshot_time.FromDatetime(summary.at)
    return pb.DiffCidSetResponse(summary=message)
