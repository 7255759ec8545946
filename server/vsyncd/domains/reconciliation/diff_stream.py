"""The stream of DiffCidSet: reads an upload, and sends its differences from the stored CIDs."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import ExitStack, aclosing
from datetime import datetime
from typing import Final, ParamSpec, TypeVar

from vsync.cid_codec import CID_BYTES
from vsync.v1 import reconciliation_pb2 as pb

from vsyncd.core.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from vsyncd.core.scope import Scope
from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import Validator
from vsyncd.domains.reconciliation.comparison import (
    ADDED_SINCE,
    MISSING_HERE,
    MISSING_THERE,
    REMOVED_SINCE,
    Comparer,
    ComparisonSummary,
    DifferenceBlock,
)
from vsyncd.domains.reconciliation.external_sort import ExternalSort, SpillFullError
from vsyncd.domains.reconciliation.messages import read_group, vsync_message
from vsyncd.domains.reconciliation.records import Group
from vsyncd.observability.metrics import DIFFED_CIDS
from vsyncd.observability.sync_metrics import DIFF_CIDS
from vsyncd.postgres.snapshots import SnapshotReader
from vsyncd.resilience.tasks import in_thread

# CIDs between two progress messages.
_PROGRESS_CIDS: Final = 500_000

P = ParamSpec("P")
T = TypeVar("T")
Requests = AsyncIterator[pb.DiffCidSetRequest]
Responses = AsyncGenerator[pb.DiffCidSetResponse]


class DiffHandler:
    """Serves DiffCidSet.

    `folder` is the folder of spill files; None is the system's temporary folder. `max_cids` limits an upload.
    """

    def __init__(self, snapshots: SnapshotReader, comparer: Comparer, *, folder: str | None, max_cids: int) -> None:
        self._snapshots = snapshots
        self._comparer = comparer
        self._folder = folder
        self._max_cids = max_cids

    async def responses(self, requests: Requests, scope: Scope) -> Responses:
        """Yields the messages of one comparison. Raises IspbDenied before the upload."""
        async with (
            self._snapshots.slot() as deadline,
            aclosing(_until(deadline, aiter(requests))) as upload,
        ):
            group, file_created_at = _read_start(await anext(upload, None))
            scope.check(group.ispb)
            with ExitStack() as stack:
                # Entered in the thread, so that a call that is cancelled meanwhile closes the file, too.
                spill = await _on_disk(lambda: stack.enter_context(ExternalSort(self._folder)))
                # A client that waits for this message before it uploads receives errors reliably: grpc.aio loses the
                # error of a stream that ends while the client writes (https://github.com/grpc/grpc/issues/36066).
                yield _progress(0)
                async with aclosing(self._receive(upload, spill)) as progress:
                    async for response in progress:
                        yield response
                differences = self._comparer.compare(group, spill, file_created_at, scope=scope)
                async with aclosing(differences), aclosing(_until(deadline, differences)) as items:
                    async for item in items:
                        if isinstance(item, ComparisonSummary):
                            _report(item)
                        yield _difference_message(item)

    async def _receive(self, upload: AsyncGenerator[pb.DiffCidSetRequest], spill: ExternalSort) -> Responses:
        """Stores the upload and yields its progress. Raises DIFF_TRUNCATED, DIFF_TOO_LARGE, SPILL_FULL."""
        reported = 0
        while (message := await anext(upload, None)) is not None and message.WhichOneof("message") != "end":
            cids = _read_cids(message)
            if spill.received + len(cids) // CID_BYTES > self._max_cids:
                text = f"The upload exceeds the limit of {self._max_cids} CIDs."
                raise InvalidArgument("DIFF_TOO_LARGE", text, metadata={"limit": str(self._max_cids)})
            await _on_disk(spill.add, cids)
            if spill.received - reported >= _PROGRESS_CIDS:
                reported = spill.received
                yield _progress(reported)
        if message is None:
            raise _truncated(f"Upload truncated: it ended after {spill.received} CIDs.", spill.received)
        if message.end.count != spill.received:
            text = f"Upload truncated: expected {message.end.count} CIDs, received {spill.received}."
            raise _truncated(text, spill.received)
        await _on_disk(spill.finish)
        DIFFED_CIDS.inc(spill.received)
        yield _progress(spill.received)
        if await anext(upload, None) is not None:
            raise InvalidArgument("DIFF_ENDED", "The end must be the last message.")


def _report(summary: ComparisonSummary) -> None:
    """Updates the metrics of the last comparison."""
    names = {
        MISSING_HERE: "missing_here",
        MISSING_THERE: "missing_there",
        REMOVED_SINCE: "removed_since",
        ADDED_SINCE: "added_since",
    }
    for kind, name in names.items():
        DIFF_CIDS.labels(name).set(summary.counts[kind])


def _read_start(request: pb.DiffCidSetRequest | None) -> tuple[Group, datetime]:
    """Returns the group and the creation time of the file."""
    if request is None:
        raise _truncated("Upload truncated: it has no start.", 0)
    if request.WhichOneof("message") != "start":
        raise InvalidArgument("DIFF_NOT_STARTED", "The first message of a comparison must be its start.")
    with Validator() as validator:
        group = read_group(request.start, "start.", validator)
        if not request.start.HasField("file_created_at"):
            validator.add("start.file_created_at", "is required")
        file_created_at = validator.time("start.file_created_at", request.start.file_created_at)
    return group, file_created_at


def _read_cids(request: pb.DiffCidSetRequest) -> bytes:
    if request.WhichOneof("message") != "cids":
        raise InvalidArgument("DIFF_STARTED_TWICE", "Only messages with CIDs may follow the start of a comparison.")
    with Validator() as validator:
        if not request.cids or len(request.cids) % CID_BYTES:
            validator.add("cids", "must be packed CIDs of 32 bytes each, at least one")
    return request.cids


async def _on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Executes work on a spill file in a thread. Raises ResourceExhausted (SPILL_FULL)."""
    try:
        return await in_thread(work, *args, **kwargs)
    except SpillFullError as error:
        message = "The disk for sorting the upload is full."
        raise ResourceExhausted("SPILL_FULL", message, retry_after=60.0) from error


async def _until(deadline: float, items: AsyncIterator[T]) -> AsyncGenerator[T]:
    """Yields the items. Raises DeadlineExceeded (DIFF_TIMEOUT) at the deadline."""
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                item = await anext(items)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise DeadlineExceeded("DIFF_TIMEOUT", "The comparison exceeded its maximum duration.") from error
        yield item


def _truncated(message: str, received: int) -> InvalidArgument:
    return InvalidArgument("DIFF_TRUNCATED", message, metadata={"received": str(received)})


def _progress(received: int) -> pb.DiffCidSetResponse:
    return pb.DiffCidSetResponse(progress=pb.DiffProgress(received=received))


def _difference_message(found: DifferenceBlock | ComparisonSummary) -> pb.DiffCidSetResponse:
    if isinstance(found, DifferenceBlock):
        return pb.DiffCidSetResponse(part=pb.DiffPart(kind=found.kind, cids=found.cids))  # type: ignore[arg-type]  # an enum's number
    message = pb.DiffSummary(
        our_vsync=vsync_message(found.ours),
        their_vsync=vsync_message(found.theirs),
        duplicates=found.duplicates,
        missing_here=found.counts[MISSING_HERE],
        missing_there=found.counts[MISSING_THERE],
        removed_since=found.counts[REMOVED_SINCE],
        added_since=found.counts[ADDED_SINCE],
        differences_vsync=found.differences.hex(),
        kept_agrees=found.kept_agrees,
        snapshot_time=timestamp(found.snapshot_time),
    )
    return pb.DiffCidSetResponse(summary=message)
