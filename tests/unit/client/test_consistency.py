"""Reads send the token of earlier writes, over both kinds of channel."""

import base64
import struct

import vsync
from vsync.consistency import OwnWrites
from vsync.v1 import cid_pb2

from tests.harness.peer import Behind, Peer

KEY = "x-consistency-token"
CREATE = cid_pb2.CreateCidRequest(record=cid_pb2.CidRecord(cid="c"))
CREATED = cid_pb2.CreateCidResponse(record=cid_pb2.CidRecord(cid="c", revision=1))
GET = cid_pb2.GetCidRequest(cid="c")
FOUND = cid_pb2.GetCidResponse()


def token(timeline: int, place: int, *, kind: int = 1) -> str:
    """Returns a token in the format of vsyncd."""
    return base64.urlsafe_b64encode(struct.pack("!BIQ", kind, timeline, place)).rstrip(b"=").decode()


def written(timeline: int, place: int) -> Behind:
    """Returns the answer to a write with its token."""
    return Behind(CREATED, ((KEY, token(timeline, place)),))


async def test_reads_send_the_token_of_the_last_write(peer: Peer, twin: str) -> None:
    peer.will(FOUND, written(1, 200), CREATED, FOUND, [cid_pb2.ExportCidsResponse()])
    if twin == "async":
        async with vsync.connect(peer.target) as client:
            await client.cids.GetCid(GET)
            await client.cids.CreateCid(CREATE)
            await client.cids.CreateCid(CREATE)
            await client.cids.GetCid(GET)
            assert [_ async for _ in client.export(cid_pb2.ExportCidsRequest())]
    else:
        with vsync.connect_sync(peer.target) as sync_client:
            sync_client.cids.GetCid(GET)
            sync_client.cids.CreateCid(CREATE)
            sync_client.cids.CreateCid(CREATE)
            sync_client.cids.GetCid(GET)
            assert list(sync_client.export(cid_pb2.ExportCidsRequest()))
    sent = [call.metadata.get(KEY) for call in peer.seen()]
    assert sent == [None, None, None, token(1, 200), token(1, 200)]


async def test_the_latest_position_is_used_not_the_last_answer(peer: Peer) -> None:
    peer.will(written(1, 300), written(1, 200), FOUND, written(2, 100), FOUND)
    async with vsync.connect(peer.target) as client:
        await client.cids.CreateCid(CREATE)
        await client.cids.CreateCid(CREATE)
        await client.cids.GetCid(GET)
        await client.cids.CreateCid(CREATE)
        await client.cids.GetCid(GET)
    sent = [call.metadata[KEY] for call in peer.seen() if call.method == "GetCid"]
    assert sent == [token(1, 300), token(2, 100)]


async def test_tokens_can_be_disabled(peer: Peer, twin: str) -> None:
    peer.will(written(1, 1), FOUND)
    if twin == "async":
        async with vsync.connect(peer.target, read_own_writes=False) as client:
            await client.cids.CreateCid(CREATE)
            await client.cids.GetCid(GET)
    else:
        with vsync.connect_sync(peer.target, read_own_writes=False) as sync_client:
            sync_client.cids.CreateCid(CREATE)
            sync_client.cids.GetCid(GET)
    assert all(KEY not in call.metadata for call in peer.seen())


async def test_a_token_of_the_caller_takes_precedence(peer: Peer) -> None:
    peer.will(written(1, 1), FOUND)
    async with vsync.connect(peer.target) as client:
        await client.cids.CreateCid(CREATE)
        await client.cids.GetCid(GET, metadata=((KEY, "the caller's"),))
    assert peer.seen()[1].metadata[KEY] == "the caller's"


def test_futures_and_streams_use_tokens(peer: Peer) -> None:
    peer.will(written(1, 1), FOUND, [Behind(cid_pb2.ImportCidsResponse(), ((KEY, token(1, 2)),))], FOUND)
    with vsync.connect_sync(peer.target) as client:
        client.cids.CreateCid.future(CREATE).result()
        client.cids.GetCid(GET)
        start = cid_pb2.ImportCidsRequest(start=cid_pb2.ImportStart())
        assert len(list(client.cids.ImportCids(iter([start])))) == 1
        client.cids.GetCid(GET)
    sent = [call.metadata[KEY] for call in peer.seen() if call.method == "GetCid"]
    assert sent == [token(1, 1), token(1, 2)]


def test_an_invalid_token_is_ignored() -> None:
    writes = OwnWrites()
    writes.note(None)
    writes.note((("x-other", "AAAA"), (KEY, "?"), (KEY, "\u00e9"), (KEY, b"AAAA")))
    assert not writes.token


def test_a_write_that_changes_no_cached_record_moves_the_position_only() -> None:
    writes = OwnWrites()
    writes.note(((KEY, token(1, 100, kind=2)),))
    assert writes.token == token(1, 100, kind=2)
    writes.note(((KEY, token(1, 50, kind=1)),))
    assert writes.token == token(1, 100, kind=1)
    writes.note(((KEY, token(1, 200, kind=2)),))
    assert writes.token == token(1, 200, kind=1)
