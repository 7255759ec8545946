"""Imports and exports with lost streams, with both clients."""

from collections.abc import Sequence

import grpc
import pytest
import vsync
from vsync.v1 import cid_pb2

from tests.harness.peer import Broken, Peer

RECORDS = [cid_pb2.CidRecord(cid=str(number)) for number in range(5)]
OPTIONS = vsync.ImportOptions(chunk_size=2, window=2)
LOST = Broken(grpc.StatusCode.UNAVAILABLE)


def ack(number: int, inserted: int = 0) -> cid_pb2.ImportCidsResponse:
    return cid_pb2.ImportCidsResponse(number=number, inserted=inserted)


async def import_all(
    peer: Peer, twin: str, options: vsync.ImportOptions = OPTIONS, *, records: Sequence[cid_pb2.CidRecord] = RECORDS
) -> list[vsync.ImportProgress]:
    if twin == "sync":
        with vsync.connect_sync(peer.target) as client:
            return list(client.import_records(records, options))
    async with vsync.connect(peer.target) as async_client:
        return [progress async for progress in async_client.import_records(records, options)]


async def export_all(peer: Peer, twin: str) -> list[cid_pb2.ExportCidsResponse]:
    request = cid_pb2.ExportCidsRequest(cids_only=True)
    if twin == "sync":
        with vsync.connect_sync(peer.target) as client:
            return list(client.export(request))
    async with vsync.connect(peer.target) as async_client:
        return [answer async for answer in async_client.export(request)]


async def test_an_import_sends_start_and_chunks(peer: Peer, twin: str) -> None:
    peer.will([ack(0), ack(1, 2), ack(2, 2), ack(3, 1)])
    progress = await import_all(peer, twin)
    assert [(step.number, step.records, step.inserted) for step in progress] == [(1, 2, 2), (2, 4, 4), (3, 5, 5)]
    assert progress[-1].streams == 1
    (call,) = peer.seen()
    assert call.requests[0] == OPTIONS.start()
    assert [request.chunk.number for request in call.requests[1:]] == [1, 2, 3]
    assert "x-correlation-id" in call.metadata


async def test_a_lost_import_continues_after_the_last_acknowledged_chunk(peer: Peer, twin: str) -> None:
    # Chunk 2 was committed, and its answer lost.
    peer.will([ack(0), ack(1, 2), LOST], [ack(2), ack(2, 2), ack(3, 1)])
    progress = await import_all(peer, twin)
    assert [(step.number, step.records, step.inserted) for step in progress] == [(1, 2, 2), (2, 4, 4), (3, 5, 5)]
    assert progress[-1].streams == 2
    _, second = peer.seen()
    assert second.requests[0] == OPTIONS.start()
    assert [request.chunk.number for request in second.requests[1:]] == [2, 3]


async def test_a_rejected_import_raises_at_once(peer: Peer, twin: str) -> None:
    peer.will([ack(0), Broken(grpc.StatusCode.ALREADY_EXISTS, "CID_EXISTS", index="1")])
    # One chunk, so that nothing is being written when the stream ends: see below.
    with pytest.raises(vsync.AlreadyExistsError):
        await import_all(peer, twin, records=RECORDS[:2])
    assert len(peer.seen()) == 1


async def test_an_import_fails_after_the_reconnect_timeout(peer: Peer, twin: str) -> None:
    peer.will([LOST])
    with pytest.raises(vsync.UnavailableError):
        await import_all(peer, twin, vsync.ImportOptions(reconnect_timeout=0))
    assert len(peer.seen()) == 1, "gRPC itself retried the stream"


async def test_a_server_that_ends_an_import_early_is_an_error(peer: Peer, twin: str) -> None:
    # Two chunks are sent before the first answer. A third one might be under way when the stream ends, which grpc.aio
    # takes for a lost stream.
    peer.will([ack(0), ack(1)])
    with pytest.raises(vsync.VsyncError, match="early"):
        await import_all(peer, twin, records=RECORDS[:4])


async def test_a_server_that_sends_too_many_answers_is_an_error(peer: Peer, twin: str) -> None:
    peer.will([ack(0), ack(1), ack(2), ack(3), ack(4)])
    with pytest.raises(vsync.VsyncError, match="more answers"):
        await import_all(peer, twin)


async def test_a_lost_export_continues_after_the_last_message(peer: Peer, twin: str) -> None:
    first, second, third = (cid_pb2.ExportCidsResponse(resume_token=token) for token in "abc")
    peer.will([first, second, LOST], [third])
    assert await export_all(peer, twin) == [first, second, third]
    assert [call.requests[0].resume_token for call in peer.seen()] == ["", "b"]


async def test_a_rejected_export_raises_at_once(peer: Peer, twin: str) -> None:
    peer.will([Broken(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")])
    with pytest.raises(vsync.InvalidArgumentError):
        await export_all(peer, twin)
    assert len(peer.seen()) == 1
