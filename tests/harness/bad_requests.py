"""Random bytes, and messages with invalid values, as requests of any method."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from vsync.health.v1 import health_pb2
from vsync.v1 import audit_pb2, cid_pb2, sync_batch_pb2

from tests.harness.cids import a_record, some_records
from tests.harness.domains import domain_methods
from tests.harness.recorded_writes import code_and_reason

METHODS = [*domain_methods(), *health_pb2.DESCRIPTOR.services_by_name["Health"].methods]
SEEDS: list[bytes] = [
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
# Begins an import. Requests after another first message are not read.
START = SEEDS[2]
# The client writes to a stream that the server has ended. grpc.aio then reports INTERNAL with this text in place of the
# stream's status.
_WRITE_FAILED = "Internal error from Core"
_ENDED = "ENDED"
# Ends a watch that has no messages.
WATCH_S = 0.2
_NASTY = ("", "\0", "\uffff", "💥" * 50, "'; DROP TABLE cids; --", "%s%(x)s", "9" * 400, "a" * 64, "2026-02-30")
# Values that are valid in most fields of these names, so that requests reach more than the validation.
_UUIDS = [f"01020304-0506-4708-890a-0b0c0d0e0f{number:02x}" for number in range(20)]
_CPFS = [f"{number:011d}" for number in range(20)]
_VALID: Mapping[str, Sequence[Any]] = {
    "ispb": ["10000001", "10000001", "20000001"],
    "cid": [f"{number:064x}" for number in range(50)],
    "cids": [f"{number:064x}" for number in range(50)],
    "key_value": _CPFS,
    "tax_id": _CPFS,
    "branch": ["0001"],
    "account_number": ["123"],
    "batch_date": ["2026-11-03", "2026-11-04"],
    "amount": ["1234.56", "0.01"],
    "processor": ["default", "fallback"],
    "name": ["candidate"],
    "version": ["1"],
    "action": ["bank.Checked"],
    "page_token": [""],
    "resume_token": [""],
    "key_type": [1, 2, 3, 4, 5],
    "page_size": [1, 10],
    "revision": [0, 1],
    "number": [1],
    "seconds": [1_760_000_000, 1_764_000_000, 60],
    "nanos": [0],
}


def random_bytes(rng: random.Random) -> bytes:
    """Returns random bytes, or a message of some method with changed, removed or repeated bytes."""
    if rng.random() < 0.3:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(data)) if data else 0
        data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.2 else data)


def invalid_message(method: MethodDescriptor, rng: random.Random, *, invalid: float = 1.0) -> bytes:
    """Returns a message of the method's type. A value is invalid with the given probability, unless by chance."""
    message: Any = GetMessageClass(method.input_type)()
    _fill(message, rng, depth=0, invalid=invalid)
    return bytes(message.SerializeToString())


def _fill(message: Any, rng: random.Random, *, depth: int, invalid: float) -> None:
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.3 * invalid or (
            field.message_type and (depth > 2 or field.message_type.GetOptions().map_entry)
        ):
            continue
        count = rng.randrange(4) if field.is_repeated else 1
        for _ in range(count):
            if field.message_type:
                part = getattr(message, field.name)
                target = part.add() if field.is_repeated else part
                target.SetInParent() if not field.is_repeated else None
                _fill(target, rng, depth=depth + 1, invalid=invalid)
                continue
            value = _value(field, rng) if rng.random() < invalid else _valid_value(field, rng)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)


def _valid_value(field: Any, rng: random.Random) -> Any:
    if field.name in _VALID and isinstance(_VALID[field.name][0], str) == (field.type == field.TYPE_STRING):
        return rng.choice(_VALID[field.name])
    if field.type == field.TYPE_STRING:
        return rng.choice(_UUIDS)
    if field.cpp_type == field.CPPTYPE_STRING:
        return rng.randbytes(rng.choice((0, 16, 32)))
    return rng.randrange(3) if field.cpp_type != field.CPPTYPE_BOOL else rng.random() < 0.5


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


async def _converse(stream: Any, requests: list[bytes]) -> None:
    """Sends a request after each response."""
    for request in requests:
        await stream.write(request)
        if await stream.read() is grpc.aio.EOF:
            return
    stream.cancel()


async def answer(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    requests: list[bytes],
    *,
    timeout_s: float = 20,
    metadata: Sequence[tuple[str, str | bytes]] = (),
) -> str:
    """Returns the status of a call. A stream is ended after its first response or after `timeout_s`."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.client_streaming:
            method_call: Any = channel.stream_stream(path)
            await _converse(method_call(timeout=timeout_s, metadata=metadata), requests)
        elif method.server_streaming:
            stream: Any = channel.unary_stream(path)
            call = stream(requests[0], timeout=timeout_s, metadata=metadata)
            await call.read()
            call.cancel()
        else:
            unary: Any = channel.unary_unary(path)
            await unary(requests[0], timeout=timeout_s, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return _ENDED if error.details() == _WRITE_FAILED else code_and_reason(error)
    except asyncio.InvalidStateError:
        return _ENDED
    return "OK"
