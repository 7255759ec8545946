"""The defaults and the typed errors of calls, over both kinds of channel."""

import uuid

import grpc
import pytest
import vsync
from vsync.v1 import cid_pb2
from vsync.v1.cid_pb2_grpc import CidServiceStub

from tests.harness.peer import Broken, Peer

CREATE = cid_pb2.CreateCidRequest(record=cid_pb2.CidRecord(cid="c"))
CREATED = cid_pb2.CreateCidResponse(record=cid_pb2.CidRecord(cid="c", revision=1))
MISSING = Broken(grpc.StatusCode.NOT_FOUND, "CID_NOT_FOUND")
AWAY = Broken(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")


def is_uuid(text: object) -> bool:
    return str(uuid.UUID(str(text))) == text


async def create_async(peer: Peer) -> cid_pb2.CreateCidResponse:
    async with vsync.connect(peer.target) as client:
        return await client.cids.CreateCid(CREATE)


def create_sync(peer: Peer) -> cid_pb2.CreateCidResponse:
    with vsync.connect_sync(peer.target) as client:
        return client.cids.CreateCid(CREATE)


async def create(peer: Peer, twin: str) -> cid_pb2.CreateCidResponse:
    return await create_async(peer) if twin == "async" else create_sync(peer)


async def test_a_call_has_a_deadline_a_correlation_id_and_a_request_id(peer: Peer, twin: str) -> None:
    peer.will(CREATED)
    assert await create(peer, twin) == CREATED
    (call,) = peer.seen()
    assert call.time_left is not None
    assert 5 < call.time_left < 11
    assert is_uuid(call.metadata["x-correlation-id"])
    assert is_uuid(call.requests[0].request_id)
    assert not CREATE.request_id, "the caller's message was changed"


async def test_two_calls_with_one_message_are_two_requests(peer: Peer, twin: str) -> None:
    peer.will(CREATED, CREATED)
    await create(peer, twin)
    await create(peer, twin)
    first, second = peer.seen()
    assert first.requests[0].request_id != second.requests[0].request_id


async def test_a_retry_repeats_the_request_id(peer: Peer, twin: str) -> None:
    peer.will(AWAY, AWAY, CREATED)
    assert await create(peer, twin) == CREATED
    attempts = peer.seen()
    assert len(attempts) == 3
    assert len({attempt.requests[0].request_id for attempt in attempts}) == 1
    assert len({attempt.metadata["x-correlation-id"] for attempt in attempts}) == 1


async def test_a_call_has_at_most_five_attempts(peer: Peer, twin: str) -> None:
    peer.will(*[AWAY] * 5)
    with pytest.raises(vsync.UnavailableError) as caught:
        await create(peer, twin)
    attempts = peer.seen()
    assert len(attempts) == 5
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert caught.value.request_id == attempts[0].requests[0].request_id
    assert caught.value.correlation_id == attempts[0].metadata["x-correlation-id"]
    assert isinstance(caught.value.__cause__, grpc.RpcError)


async def test_values_of_the_caller_take_precedence(peer: Peer) -> None:
    request_id = str(uuid.uuid4())
    request = cid_pb2.CreateCidRequest(request_id=request_id)
    ids = [str(uuid.uuid4()) for _ in range(3)]
    peer.will(CREATED, CREATED, CREATED)
    async with vsync.connect(peer.target, timeout=None, correlation_id=ids[0]) as client:
        await client.cids.CreateCid(request)
        with vsync.correlation(ids[1]):
            await client.cids.CreateCid(request, timeout=30)
            await client.cids.CreateCid(request, metadata=(("x-correlation-id", ids[2]), ("x-more", "1")))
    calls = peer.seen()
    assert [call.metadata["x-correlation-id"] for call in calls] == ids
    assert calls[2].metadata["x-more"] == "1"
    assert {call.requests[0].request_id for call in calls} == {request_id}
    limits = [call.time_left for call in calls]
    assert limits[0] is None or limits[0] > 1e6
    assert limits[1] is not None
    assert limits[1] < 31


async def test_an_expired_deadline_raises_a_typed_error(peer: Peer) -> None:
    async with vsync.connect(peer.target) as client:
        with pytest.raises(vsync.DeadlineExceededError):
            await client.cids.GetCid(cid_pb2.GetCidRequest(cid="c"), timeout=0.1)
    peer.will(CREATED)


async def test_streams_raise_typed_errors_and_have_no_deadline(peer: Peer) -> None:
    messages = [cid_pb2.ExportCidsResponse(resume_token=token) for token in "ab"]
    broken = Broken(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN")
    peer.will([*messages, broken], [*messages, broken])
    async with vsync.connect(peer.target) as client:
        async_stream = aiter(client.cids.ExportCids(cid_pb2.ExportCidsRequest()))
        received = [await anext(async_stream), await anext(async_stream)]
        with pytest.raises(vsync.InvalidArgumentError, match="PAGE_TOKEN"):
            await anext(async_stream)
    with vsync.connect_sync(peer.target) as sync_client:
        stream = sync_client.cids.ExportCids(cid_pb2.ExportCidsRequest())
        received += [next(stream), next(stream)]
        with pytest.raises(vsync.InvalidArgumentError, match="PAGE_TOKEN"):
            next(stream)
    assert received == messages * 2
    assert all(call.time_left is None or call.time_left > 1e6 for call in peer.seen())


def test_futures_raise_typed_errors(peer: Peer) -> None:
    found = cid_pb2.GetCidResponse(record=cid_pb2.CidRecord(cid="c"))
    peer.will(MISSING, MISSING, found, found)
    request = cid_pb2.GetCidRequest(cid="c")
    with vsync.connect_sync(peer.target) as client:
        with pytest.raises(vsync.NotFoundError):
            client.cids.GetCid.future(request).result()
        assert isinstance(client.cids.GetCid.future(request).exception(), vsync.NotFoundError)
        assert client.cids.GetCid.future(request).result() == found
        future = client.cids.GetCid.future(request)
        assert future.exception() is None
        assert future.code() is grpc.StatusCode.OK


def test_with_call_gives_the_trailing_metadata(peer: Peer) -> None:
    peer.will(cid_pb2.GetCidResponse(), MISSING)
    with vsync.connect_sync(peer.target) as client:
        answer, call = client.cids.GetCid.with_call(cid_pb2.GetCidRequest(cid="c"))
        assert answer == cid_pb2.GetCidResponse()
        assert call.code() is grpc.StatusCode.OK
        with pytest.raises(vsync.NotFoundError):
            client.cids.GetCid.with_call(cid_pb2.GetCidRequest(cid="c"))


async def test_an_unreachable_server_is_unavailable() -> None:
    async with vsync.connect("127.0.0.1:1", timeout=1) as client:
        with pytest.raises((vsync.UnavailableError, vsync.DeadlineExceededError)):
            await client.cids.GetCid(cid_pb2.GetCidRequest(cid="c"))


async def test_a_stub_of_any_service_has_the_clients_defaults(peer: Peer, twin: str) -> None:
    peer.will(AWAY, CREATED)
    if twin == "async":
        async with vsync.connect(peer.target) as client:
            created = await client.stub(CidServiceStub).CreateCid(CREATE)
    else:
        with vsync.connect_sync(peer.target) as sync_client:
            created = sync_client.stub(CidServiceStub).CreateCid(CREATE)
    assert created == CREATED
    first, second = peer.seen()
    assert first.time_left is not None
    assert 5 < first.time_left < 11
    assert is_uuid(first.metadata["x-correlation-id"])
    assert is_uuid(first.requests[0].request_id)
    assert first.requests == second.requests


async def test_a_clients_stub_is_created_once(peer: Peer) -> None:
    async with vsync.connect(peer.target) as client, vsync.connect(peer.target) as other:
        assert client.cids is client.cids
        assert client.cids is not other.cids
