"""Comparisons that the server rejects, truncates, or answers inconsistently."""

from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import pytest
import vsync
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb

from tests.harness.peer import Broken, Peer

CIDS = [bytes(31) + b"1", bytes(31) + b"2"]
OPTIONS = vsync.DiffOptions(
    ispb="12345678",
    key_type=cid_pb2.KEY_TYPE_CPF,
    file_created_at=datetime(2026, 1, 1, tzinfo=UTC),
    consistency="strong",
    reconnect_timeout=0,
)
# One answer for each message of the upload except its end. The following answers arrive after the end.
TAKEN = pb.DiffCidSetResponse(progress=pb.DiffProgress(received=0))
UPLOADED = [TAKEN] * 3
PART = pb.DiffCidSetResponse(part=pb.DiffPart(kind=pb.DIFF_KIND_MISSING_HERE, cids=CIDS[0]))


def summary(differences: str, *, missing_here: int = 1) -> pb.DiffCidSetResponse:
    """Returns the summary of a comparison in which our set is empty."""
    theirs = pb.Vsync(vsync=CIDS[0].hex(), count=1)
    message = pb.DiffSummary(
        our_vsync=pb.Vsync(vsync="0" * 64),
        their_vsync=theirs,
        missing_here=missing_here,
        differences_vsync=differences,
    )
    return pb.DiffCidSetResponse(summary=message)


GOOD = summary(CIDS[0].hex())


class Packed:
    """A file that counts the blocks that were read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[bytes]:
        for cid in CIDS:
            self.read += 1
            yield cid


async def diff_all(peer: Peer, twin: str, packed: Packed) -> list[pb.DiffCidSetResponse]:
    if twin == "sync":
        with vsync.connect_sync(peer.target) as client:
            return list(client.diff(packed, OPTIONS))
    async with vsync.connect(peer.target) as async_client:
        return [answer async for answer in async_client.diff(packed, OPTIONS)]


async def test_the_file_is_uploaded_after_the_start_was_accepted(peer: Peer, twin: str) -> None:
    peer.will([TAKEN, TAKEN, TAKEN, PART, GOOD])
    assert (await diff_all(peer, twin, Packed()))[-1] == GOOD
    (call,) = peer.seen()
    assert [request.WhichOneof("message") for request in call.requests] == ["start", "cids", "cids", "end"]
    assert call.metadata["x-consistency"] == "strong"


async def test_a_rejected_comparison_does_not_read_the_file(peer: Peer, twin: str) -> None:
    """An asyncio client that is writing when a stream ends loses the error (https://github.com/grpc/grpc/issues/36066)."""
    packed = Packed()
    peer.will([Broken(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")])
    with pytest.raises(vsync.CallError) as caught:
        await diff_all(peer, twin, packed)
    assert (caught.value.reason, packed.read) == ("OVERLOADED", 0)


@pytest.mark.parametrize(
    "answers",
    [
        [PART],
        [TAKEN],
        [GOOD],
        [PART, PART, GOOD],
        [PART, summary(CIDS[1].hex())],
        [PART, summary(CIDS[0].hex(), missing_here=2)],
    ],
)
async def test_differences_that_do_not_match_the_summary_are_an_error(
    peer: Peer, twin: str, answers: list[pb.DiffCidSetResponse]
) -> None:
    peer.will([*UPLOADED, *answers])
    with pytest.raises(vsync.DiffIncompleteError):
        await diff_all(peer, twin, Packed())
