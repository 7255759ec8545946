"""Invalid requests: the error names each bad field and never contains a value."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from vsync.keys import ANY_KEY_RULE, KEY_FORMS
from vsync.v1 import cid_pb2 as pb

from tests.harness.cids import (
    Stub,
    a_record,
    a_request_id,
    cid_of,
    create,
    failure_of,
    info_of,
    rows,
    some_records,
    status_of,
    unpacked,
    until,
)
from tests.harness.clusters import Database
from tests.harness.logs import captured_logs

SECRET = "sEcReT-7f3a9c-zz"  # noqa: S105  a value that must not appear in errors and logs
VALID: dict[str, Message] = {
    "CreateCid": pb.CreateCidRequest(record=a_record(1), request_id=a_request_id()),
    "BatchCreateCids": pb.BatchCreateCidsRequest(records=[a_record(2)], request_id=a_request_id()),
    "GetCid": pb.GetCidRequest(key=pb.CidKey(key_value="00000000001", ispb="12345678")),
    "BatchGetCids": pb.BatchGetCidsRequest(cids=[cid_of(1)]),
    "ListCids": pb.ListCidsRequest(filter=pb.CidFilter(ispb="12345678", tax_id="00000000001")),
    "CountCids": pb.CountCidsRequest(ispb="12345678"),
    "UpdateCid": pb.UpdateCidRequest(
        key=pb.CidKey(key_value="00000000001", ispb="12345678"),
        update=pb.CidUpdate(
            cid=cid_of(3),
            branch="1",
            account_number="1",
            account_type=pb.ACCOUNT_TYPE_CACC,
            dict_request_id=str(UUID(int=1)),
        ),
        update_mask=FieldMask(paths=["cid", "branch", "account_number", "account_type", "dict_request_id"]),
    ),
    "UpdateSyncStatus": pb.UpdateSyncStatusRequest(cids=[cid_of(1)], sync_status=pb.SYNC_STATUS_FAILED, error="no"),
    "DeleteCid": pb.DeleteCidRequest(key=pb.CidKey(key_value="00000000001", ispb="12345678")),
    "BatchDeleteCids": pb.BatchDeleteCidsRequest(cids=[cid_of(1)]),
}
# Invalid requests, and the fields that the error must name.
BAD: list[tuple[str, Message, list[str]]] = [
    ("CreateCid", pb.CreateCidRequest(), [
        *("record.cid", "record.key_type", "record.ispb", "record.account_number", "record.account_type"),
        "record.tax_id",
    ]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, cid="0" * 63)), ["record.cid"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, cid="0" * 65)), ["record.cid"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, cid="g" + "0" * 63)), ["record.cid"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, cid="0" * 64 + "\n")), ["record.cid"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, cid="\u0661" * 64)), ["record.cid"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, key_value="0000000001\0")), ["record.key_value"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, key_value="\u0661" * 11)), ["record.key_value"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, key_type=4, key_value="A@b.c")), ["record.key_value"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, key_type=4, key_value="a" * 75 + "@bc")), [
        "record.key_value"
    ]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, key_type=6)), ["record.key_type"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, key_type=-1)), ["record.key_type"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, account_type=9)), ["record.account_type"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, branch="12345678901")), ["record.branch"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, account_number="1" * 21)), ["record.account_number"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, tax_id="1" * 12)), ["record.tax_id"]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, dict_request_id="{" + str(UUID(int=1)) + "}")), [
        "record.dict_request_id"
    ]),
    ("CreateCid", pb.CreateCidRequest(record=a_record(1, ispb="1"), request_id="x"), ["record.ispb", "request_id"]),
    ("BatchCreateCids", pb.BatchCreateCidsRequest(), ["records"]),
    ("BatchCreateCids", pb.BatchCreateCidsRequest(records=some_records(1001)), ["records"]),
    ("BatchCreateCids", pb.BatchCreateCidsRequest(records=[a_record(1), a_record(2, cid=cid_of(1).upper())]), [
        "records[1].cid"
    ]),
    ("BatchCreateCids", pb.BatchCreateCidsRequest(records=[a_record(1), a_record(1, cid=cid_of(2))]), [
        "records[1].key_value"
    ]),
    ("GetCid", pb.GetCidRequest(), ["by"]),
    ("GetCid", pb.GetCidRequest(id="1"), ["id"]),
    ("GetCid", pb.GetCidRequest(cid="zz"), ["cid"]),
    ("GetCid", pb.GetCidRequest(key=pb.CidKey(key_value="a\0")), ["key.key_value", "key.ispb"]),
    ("GetCid", pb.GetCidRequest(key=pb.CidKey(key_value="1" * 78, ispb="12345678")), ["key.key_value"]),
    ("BatchGetCids", pb.BatchGetCidsRequest(), ["cids"]),
    ("BatchGetCids", pb.BatchGetCidsRequest(cids=[cid_of(n) for n in range(1001)]), ["cids"]),
    ("BatchGetCids", pb.BatchGetCidsRequest(cids=[cid_of(1), "x", cid_of(1)]), ["cids[1]", "cids[2]"]),
    ("ListCids", pb.ListCidsRequest(page_size=-1, filter=pb.CidFilter(ispb="1")), ["filter.ispb", "page_size"]),
    ("ListCids", pb.ListCidsRequest(filter=pb.CidFilter(key_type=99, sync_status=-2, tax_id="x")), [  # type: ignore[arg-type]  # no such values
        *("filter.key_type", "filter.sync_status", "filter.tax_id"),
    ]),
    ("ListCids", pb.ListCidsRequest(filter=pb.CidFilter(created_after=Timestamp(seconds=-1))), [
        "filter.created_after"
    ]),
    ("ListCids", pb.ListCidsRequest(filter=pb.CidFilter(created_before=Timestamp(seconds=253402300800))), [
        "filter.created_before"
    ]),
    ("ListCids", pb.ListCidsRequest(filter=pb.CidFilter(created_before=Timestamp(nanos=-1))), [
        "filter.created_before"
    ]),
    ("ListCids", pb.ListCidsRequest(page_token="AAAA"), ["page_token"]),
    ("CountCids", pb.CountCidsRequest(ispb="123"), ["ispb"]),
    ("UpdateCid", pb.UpdateCidRequest(), ["by", "update_mask", "update.cid"]),
    ("UpdateCid", pb.UpdateCidRequest(
        id=str(UUID(int=1)), revision=0, update_mask=FieldMask(paths=["cid", "key_value", "account_number"])
    ), ["update_mask", "update.cid", "update.account_number", "revision"]),
    ("UpdateSyncStatus", pb.UpdateSyncStatusRequest(cids=[cid_of(1)]), ["sync_status"]),
    ("UpdateSyncStatus", pb.UpdateSyncStatusRequest(cids=[cid_of(1)], sync_status=3), ["error"]),  # type: ignore[arg-type]  # FAILED
    ("UpdateSyncStatus", pb.UpdateSyncStatusRequest(cids=[cid_of(1)], sync_status=2, error="x"), ["error"]),  # type: ignore[arg-type]  # SYNCED
    ("UpdateSyncStatus", pb.UpdateSyncStatusRequest(cids=[cid_of(1)], sync_status=3, error="\0"), ["error"]),  # type: ignore[arg-type]  # FAILED
    ("UpdateSyncStatus", pb.UpdateSyncStatusRequest(cids=[cid_of(1)], sync_status=3, error="é" * 1001), ["error"]),  # type: ignore[arg-type]  # FAILED
    ("UpdateSyncStatus", pb.UpdateSyncStatusRequest(cids=[cid_of(1)], sync_status=3, error="€" * 667), ["error"]),  # type: ignore[arg-type]  # FAILED
    ("DeleteCid", pb.DeleteCidRequest(cid="", revision=-1), ["cid", "revision"]),
    ("BatchDeleteCids", pb.BatchDeleteCidsRequest(cids=[cid_of(1)] * 2), ["cids[1]"]),
]  # fmt: skip

# Common notations of keys that are not canonical.
NOT_CANONICAL: dict[pb.KeyType.ValueType, list[str]] = {
    pb.KEY_TYPE_CPF: ["111.222.333-00", "1112223330", "111222333000"],
    pb.KEY_TYPE_CNPJ: ["12abc34501de35", "12.ABC.345/01DE-35", "12ABC34501DEAB"],
    pb.KEY_TYPE_PHONE: ["5511987654321", "+55 11 98765-4321", "+0511987654321", "+5511987654321000"],
    pb.KEY_TYPE_EMAIL: ["Maria@example.com", "maria@EXAMPLE.com", " maria@example.com", "maria"],
    pb.KEY_TYPE_EVP: ["5B4A3C2D-0000-4000-8000-0123456789AB", "5b4a3c2d000040008000c123456789ab"],
}


async def test_a_key_that_is_not_canonical_is_refused_by_all_methods(cids: Stub, subtests: pytest.Subtests) -> None:
    for key_type, texts in NOT_CANONICAL.items():
        for text in texts:
            key = pb.CidKey(key_value=text, ispb="12345678")
            update = pb.UpdateCidRequest(
                key=key, update=pb.CidUpdate(cid=cid_of(1)), update_mask=FieldMask(paths=["cid"])
            )
            for call, field, rule in (
                (cids.CreateCid(pb.CreateCidRequest(record=a_record(1, key_type=key_type, key_value=text))),
                 "record.key_value", KEY_FORMS[key_type].rule),
                (cids.GetCid(pb.GetCidRequest(key=key)), "key.key_value", ANY_KEY_RULE),
                (cids.UpdateCid(update), "key.key_value", ANY_KEY_RULE),
                (cids.DeleteCid(pb.DeleteCidRequest(key=key)), "key.key_value", ANY_KEY_RULE),
            ):  # fmt: skip
                with subtests.test(key_type=key_type, text=text, field=field):
                    error = await failure_of(call)
                    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
                    bad = unpacked(status_of(error), error_details_pb2.BadRequest())
                    assert [(each.field, each.description) for each in bad.field_violations] == [(field, rule)]


async def test_an_unknown_canonical_key_is_not_found(cids: Stub) -> None:
    for text in ("11122233300", "12ABC34501DE35", "+5511987654321", "maria@example.com", str(UUID(int=7))):
        error = await failure_of(cids.GetCid(pb.GetCidRequest(key=pb.CidKey(key_value=text, ispb="12345678"))))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_the_error_names_every_bad_field(cids: Stub, database: Database, subtests: pytest.Subtests) -> None:
    for number, (method, request, fields) in enumerate(BAD):
        with subtests.test(method=method, number=number):
            error = await failure_of(getattr(cids, method)(request))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            bad = unpacked(status_of(error), error_details_pb2.BadRequest())
            assert [violation.field for violation in bad.field_violations] == fields
            assert info_of(error).reason == "INVALID_FIELD"
            assert info_of(error).metadata["violations_total"] == str(len(fields))
    assert rows(database, "SELECT FROM vsync.audit_logs") == []


async def test_the_error_names_the_first_of_many_bad_fields_in_4_kib(cids: Stub) -> None:
    request = pb.BatchCreateCidsRequest(records=[pb.CidRecord()] * 1000)
    error = await failure_of(cids.BatchCreateCids(request))
    status = status_of(error)
    bad = unpacked(status, error_details_pb2.BadRequest())
    assert status.ByteSize() <= 4096
    assert len(bad.field_violations) == 20
    assert bad.field_violations[0].field == "records[0].cid"
    assert info_of(error).metadata["violations_total"] == str(6 * 1000)


def _with_secret_in_each_text(request: Message) -> Iterator[tuple[str, Message]]:
    """Yields copies of a request with the secret in one text field each."""
    for place in range(len(list(_texts(request, "")))):
        copy = type(request)()
        copy.CopyFrom(request)
        path, owner, field = list(_texts(copy, ""))[place]
        if field.is_repeated:
            getattr(owner, field.name)[:] = [SECRET]
        else:
            setattr(owner, field.name, SECRET)
        yield path, copy


def _texts(message: Message, prefix: str) -> Iterator[tuple[str, Message, Any]]:
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield prefix + field.name, message, field
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            value = getattr(message, field.name)
            for inner in value if field.is_repeated else [value] if message.HasField(field.name) else []:
                yield from _texts(inner, f"{prefix}{field.name}.")


@pytest.mark.settings(log_failures_per_second=10_000)
async def test_no_value_of_a_request_is_returned_or_logged(cids: Stub, subtests: pytest.Subtests) -> None:
    await create(cids, [1])
    code = grpc.StatusCode
    expected = {code.OK, code.INVALID_ARGUMENT, code.NOT_FOUND, code.ALREADY_EXISTS}
    refused = 0
    with captured_logs() as log:
        for method, valid in VALID.items():
            for path, request in _with_secret_in_each_text(valid):
                with subtests.test(method=method, path=path):
                    call = getattr(cids, method)(request)
                    refused += await call.code() is not grpc.StatusCode.OK
                    returned = [await call.details(), *await call.trailing_metadata(), *await call.initial_metadata()]
                    assert SECRET not in repr(returned)
                    assert await call.code() in expected
        assert refused > 30
        # The log line is written after the response.
        await until(lambda: len(log.named("call failed")) >= refused)
        assert len(log.named("call failed")) == refused
    assert SECRET not in log.text
    assert "00000000001" not in log.text, "keys and tax ids must not be logged"


async def test_a_malformed_message_is_an_invalid_argument(channel: grpc.aio.Channel, subtests: pytest.Subtests) -> None:
    """Text that is not UTF-8 (a lone surrogate), and truncated messages."""
    for method, valid in VALID.items():
        raw: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/vsync.v1.CidService/{method}")
        whole = valid.SerializeToString()
        broken = [whole[:-1]]
        for _path, request in _with_secret_in_each_text(valid):
            text = SECRET.encode()
            broken.append(request.SerializeToString().replace(text, b"\xed\xa0\x80" + text[3:]))
        for data in broken:
            with subtests.test(method=method, data=data[:40]):
                error = await failure_of(raw(data))
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert info_of(error).reason == "MALFORMED_REQUEST"


async def test_a_malformed_message_of_a_stream_is_an_invalid_argument(channel: grpc.aio.Channel) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield pb.ImportCidsRequest(start=pb.ImportStart(import_id=a_request_id(), on_conflict=1)).SerializeToString()  # type: ignore[arg-type]  # FAIL
        yield b"\xff\xff\xff"

    imports: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
    imports = channel.stream_stream("/vsync.v1.CidService/ImportCids")
    exports: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream("/vsync.v1.CidService/ExportCids")
    for call in (imports(broken()), exports(b"\x0a\xff")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _answer in call:
                pass
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert info_of(caught.value).reason == "MALFORMED_REQUEST"


@pytest.mark.settings(grpc_max_request_bytes=100_000)
async def test_a_message_that_is_too_large_is_refused(cids: Stub) -> None:
    await create(cids, range(10))
    error = await failure_of(cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=some_records(900, 10))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await cids.CountCids(pb.CountCidsRequest())).total == 10
