"""Helpers for tests of ImportCids."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

import grpc
from vsync.v1 import cid_pb2 as pb

from tests.harness.cids import Stub, a_request_id, failure_of, messages

FAIL, SKIP, REPLACE = 1, 2, 3
Chunks = list[tuple[int, list[pb.CidRecord]]]


class Counts(NamedTuple):
    """Counts of a chunk or of the whole import."""

    inserted: int = 0
    skipped: int = 0
    replaced: int = 0
    rejected: int = 0


async def imported(
    cids: Stub, chunks: Chunks, *, on_conflict: int = SKIP, import_id: str = "", status: int = 0
) -> list[pb.ImportCidsResponse]:
    """Executes an import. Returns all responses, the one to the start first."""
    requests = [request async for request in messages(import_id or a_request_id(), on_conflict, chunks)]
    requests[0].start.initial_sync_status = status  # type: ignore[assignment]  # an enum's number
    return [answer async for answer in cids.ImportCids(iter_of(requests))]


async def iter_of(requests: Iterable[pb.ImportCidsRequest]) -> AsyncIterator[pb.ImportCidsRequest]:
    """Yields the requests."""
    for request in requests:
        yield request


async def refused(cids: Stub, requests: Iterable[pb.ImportCidsRequest]) -> tuple[int, grpc.aio.AioRpcError]:
    """Executes an import that fails. Returns the number of responses before the error, and the error."""
    answers = 0

    async def count() -> None:
        nonlocal answers
        async for _answer in cids.ImportCids(iter_of(requests)):
            answers += 1

    error = await failure_of(count())
    return answers, error


def counts_of(answer: pb.ImportCidsResponse) -> Counts:
    """Returns the counts of the chunk."""
    return Counts(answer.inserted, answer.skipped, answer.replaced, len(answer.rejected))


def totals_of(answer: pb.ImportCidsResponse) -> Counts:
    """Returns the totals of the import."""
    totals = answer.totals
    return Counts(totals.inserted, totals.skipped, totals.replaced, totals.rejected)


def a_start(**fields: Any) -> pb.ImportCidsRequest:
    """Returns the first message of an import. `fields` replace the default values."""
    given: dict[str, Any] = {"import_id": "018f0000-0000-7000-8000-000000000001", "on_conflict": SKIP}
    return pb.ImportCidsRequest(start=pb.ImportStart(**given | fields))
