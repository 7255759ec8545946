"""Random bytes and values are reported as errors of the client."""

import asyncio
import random
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from vsync.health.v1 import health_pb2
from vsync.v1 import audit_pb2, cid_pb2, sync_batch_pb2
from vsyncd.app import Application

from tests.harness.cids import a_record, some_records
from tests.harness.clusters import Database
from tests.harness.domains import domain_methods
from tests.harness.recorded_writes import code_and_reason
from tests.harness.serving import settings_for

METHODS = [*domain_methods(), *health_pb2.DESCRIPTOR.services_by_name["Health"].methods]
_OUR_FAULT = ("INTERNAL", "UNKNOWN", "UNIMPLEMENTED", "UNAVAILABLE", "DATA_LOSS")
_SEEDS: list[bytes] = [
    cid_pb2.CreateCidRequest(record=a_record(1)).SerializeToString(),
    cid_pb2.BatchCreateCidsRequest(records=some_records(3)).SerializeToString(),
    cid_pb2.ImportCidsRequest(
        start=cid_pb2.ImportStart(
            import_id="01020304-0506-0708-090a-0b0c0d0e0f10", on_conflict=cid_pb2.ON_CONFLICT_SKIP
        )
    ).SerializeToString(),
    cid_pb2.ImportCidsRequest(chunk=cid_pb2.ImportChunk(number=1, records=some_records(3))).SerializeToString(),
    cid_pb2.GetCidRequest(cid="a" * 64).SerializeToString(),
    sync_batch_pb2.CreateSyncBatchRequest(batch_date="2026-01-01").SerializeToString(),
    audit_pb2.ListAuditLogsRequest(correlation_id="x", page_size=1).SerializeToString(),
]
_START = _SEEDS[2]
# A watch without messages is ended after this time.
_WATCH = 0.2
_NASTY = ("", "\0", "\uffff", "💥" * 50, "'; DROP TABLE cids; --", "%s%(x)s", "9" * 400, "a" * 64, "2026-02-30")


def _random_bytes(rng: random.Random) -> bytes:
    """Returns random bytes, or a message of some method with changed, removed or repeated bytes."""
    if rng.random() < 0.3:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(_SEEDS))
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(data)) if data else 0
        data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.2 else data)


def _invalid_message(method: MethodDescriptor, rng: random.Random) -> bytes:
    """Returns a message of the right type with invalid values."""
    message: Any = GetMessageClass(method.input_type)()
    _fill(message, rng, depth=0)
    return bytes(message.SerializeToString())


def _fill(message: Any, rng: random.Random, *, depth: int) -> None:
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.3 or (field.message_type and (depth > 2 or field.message_type.GetOptions().map_entry)):
            continue
        count = rng.randrange(4) if field.is_repeated else 1
        for _ in range(count):
            if field.message_type:
                part = getattr(message, field.name)
                target = part.add() if field.is_repeated else part
                target.SetInParent() if not field.is_repeated else None
                _fill(target, rng, depth=depth + 1)
            elif field.is_repeated:
                getattr(message, field.name).append(_value(field, rng))
            else:
                setattr(message, field.name, _value(field, rng))


def _value(field: Any, rng: random.Random) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        text = rng.choice(_NASTY)
        return text.encode() if field.type == field.TYPE_BYTES else text
    if field.cpp_type == field.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if field.cpp_type in {field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT}:
        return rng.choice((0.0, -1.5, float("inf"), float("nan"), 1e308))
    if field.cpp_type == field.CPPTYPE_ENUM:
        return rng.choice((0, 1, 2, 99, -1))
    bits = 32 if field.cpp_type in {field.CPPTYPE_INT32, field.CPPTYPE_UINT32} else 64
    unsigned = field.cpp_type in {field.CPPTYPE_UINT32, field.CPPTYPE_UINT64}
    return rng.choice(
        (0, 1, 7, 2**bits - 1 if unsigned else 2 ** (bits - 1) - 1, 0 if unsigned else -(2 ** (bits - 1)))
    )


async def _converse(method: Any, requests: list[bytes]) -> None:
    """Sends a request after each response: grpc.aio raises INTERNAL if it writes to a stream that has ended."""
    stream = method(timeout=20)
    for request in requests:
        await stream.write(request)
        if await stream.read() is grpc.aio.EOF:
            return
    stream.cancel()


async def _answer(
    channel: grpc.aio.Channel, method: MethodDescriptor, requests: list[bytes], *, timeout_s: float = 20
) -> str:
    """Returns the status of a call. A stream is ended after its first response or after `timeout_s`."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.client_streaming:
            await _converse(channel.stream_stream(path), requests)
        elif method.server_streaming:
            stream: Any = channel.unary_stream(path)
            call = stream(requests[0], timeout=timeout_s)
            await call.read()
            call.cancel()
        else:
            unary: Any = channel.unary_unary(path)
            await unary(requests[0], timeout=20)
    except grpc.aio.AioRpcError as error:
        return code_and_reason(error)
    return "OK"


@pytest.fixture
async def channel(database: Database) -> Any:
    """A channel to a vsyncd that accepts messages up to 64 KiB."""
    settings = settings_for(
        database.service_url,
        db_auto_migrate=False,
        domains="all",
        http_listen="127.0.0.1:0",
        grpc_max_request_bytes=65536,
    )
    async with (
        Application(settings) as application,
        grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel,
    ):
        yield channel


@pytest.mark.parametrize("rounds", [20, pytest.param(2000, marks=pytest.mark.soak)])
async def test_random_input_is_never_an_internal_error(channel: grpc.aio.Channel, rounds: int) -> None:
    rng = random.Random(rounds)  # noqa: S311  deterministic test data
    for method in METHODS:
        for _ in range(rounds):
            for requests in ([_random_bytes(rng) for _ in range(3)], [_invalid_message(method, rng) for _ in range(3)]):
                if method.client_streaming and rng.random() < 0.5:
                    requests.insert(0, _START)
                timeout_s = _WATCH if method.name.startswith("Watch") else 20
                answer = await _answer(channel, method, requests, timeout_s=timeout_s)
                assert not answer.startswith(_OUR_FAULT), (method.full_name, answer, requests)
    assert await _answer(channel, METHODS[0], [_SEEDS[0]]) in {"OK", "ALREADY_EXISTS CID_EXISTS"}


async def test_a_message_above_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    answers = await asyncio.gather(*(_answer(channel, method, [b"\0" * 65537]) for method in METHODS))
    names = [method.full_name for method in METHODS]
    assert dict(zip(names, answers, strict=True)) == dict.fromkeys(names, "RESOURCE_EXHAUSTED")
