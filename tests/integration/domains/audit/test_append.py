"""AppendAuditLog and BatchAppendAuditLogs: stored entries, repeated requests, and invalid ones."""

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from google.protobuf.struct_pb2 import Struct
from vsync.v1 import audit_pb2 as pb

from tests.harness.clusters import Database
from tests.harness.serving import fields_of, reason_of

if TYPE_CHECKING:
    from vsync.v1.audit_pb2_grpc import AuditServiceAsyncStub as Audit

CID = "28c06eb41c4dc9c3ae114831efcac7446c8747777fca8b145ecd31ff8480ae88"


def payload(**values: Any) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


def stored(database: Database) -> int:
    with psycopg.connect(database.admin) as connection:
        row = connection.execute('SELECT count(*) FROM "vsync".audit_logs').fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.both_versions
async def test_a_stored_entry_equals_the_sent_one(audit: "Audit") -> None:
    sent = pb.AuditLog(
        correlation_id="order-17",
        actor="settlement é",
        action="settlement.v1/Close",
        resource="payments/" + "é" * 246,
        ispb="12345678",
        key_value="maria@example.com",
        cid=CID.upper(),
        payload=payload(count=3, ratio=0.1, tags=["a", None, True], nested={"deep": {"er": "ü"}}),
    )
    appended = (await audit.AppendAuditLog(pb.AppendAuditLogRequest(log=sent))).log
    found = (await audit.GetAuditLog(pb.GetAuditLogRequest(id=appended.id))).log
    assert found == appended
    sent.id, sent.cid = appended.id, CID
    sent.created_at.CopyFrom(appended.created_at)
    sent.recorded_by, sent.on_behalf_of = "anonymous", sent.actor
    assert found == sent


async def test_the_call_provides_the_empty_fields_of_an_entry(audit: "Audit") -> None:
    request = pb.AppendAuditLogRequest(log=pb.AuditLog(action="a"))
    appended = (await audit.AppendAuditLog(request, metadata=(("x-correlation-id", "f" * 32),))).log
    assert (appended.correlation_id, appended.actor, appended.recorded_by) == (
        "f" * 32,
        "anonymous",
        "anonymous",
    )
    assert appended.on_behalf_of == ""
    assert not appended.HasField("payload")
    assert (appended.resource, appended.ispb, appended.key_value, appended.cid) == ("", "", "", "")


async def test_an_empty_payload_is_stored_as_an_empty_object(audit: "Audit") -> None:
    request = pb.AppendAuditLogRequest(log=pb.AuditLog(action="a", payload=Struct()))
    appended = (await audit.AppendAuditLog(request)).log
    assert (await audit.GetAuditLog(pb.GetAuditLogRequest(id=appended.id))).log.HasField("payload")


async def test_every_double_in_a_payload_is_stored_exactly(audit: "Audit") -> None:
    for number in (0.1, 1e308, 5e-324, -1.7976931348623157e308, 2.0**53 + 2, 123456789.123456789, 1e21):
        request = pb.AppendAuditLogRequest(log=pb.AuditLog(action="a", payload=payload(n=number)))
        appended = (await audit.AppendAuditLog(request)).log
        assert (await audit.GetAuditLog(pb.GetAuditLogRequest(id=appended.id))).log.payload["n"] == number


async def test_appending_creates_no_further_entry(audit: "Audit", database: Database) -> None:
    logs = [pb.AuditLog(action=f"step {number}") for number in range(1000)]
    appended = (await audit.BatchAppendAuditLogs(pb.BatchAppendAuditLogsRequest(logs=logs))).logs
    assert [log.action for log in appended] == [log.action for log in logs]
    assert sorted(log.id for log in appended) == [log.id for log in appended]
    assert stored(database) == 1000


@pytest.mark.both_versions
async def test_a_repeated_request_appends_once_and_returns_the_same_entry(audit: "Audit", database: Database) -> None:
    request = pb.BatchAppendAuditLogsRequest(
        logs=[pb.AuditLog(action="first", payload=payload(n=1)), pb.AuditLog(action="second", cid=CID)],
        request_id=str(uuid4()),
    )
    first = await audit.BatchAppendAuditLogs(request, metadata=(("x-correlation-id", "1" * 32),))
    again = await audit.BatchAppendAuditLogs(request, metadata=(("x-correlation-id", "2" * 32),))
    assert again == first
    assert stored(database) == 2


async def test_concurrent_equal_requests_append_once(audit: "Audit", database: Database) -> None:
    request = pb.AppendAuditLogRequest(log=pb.AuditLog(action="a"), request_id=str(uuid4()))
    answers = await asyncio.gather(*(audit.AppendAuditLog(request) for _ in range(10)))
    assert len({answer.log.id for answer in answers}) == 1
    assert stored(database) == 1


async def test_a_request_id_with_other_content_is_refused(audit: "Audit", database: Database) -> None:
    request = pb.AppendAuditLogRequest(log=pb.AuditLog(action="a"), request_id=str(uuid4()))
    await audit.AppendAuditLog(request)
    request.log.action = "b"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await audit.AppendAuditLog(request)
    assert reason_of(raised.value) == "REQUEST_ID_REUSED"
    assert stored(database) == 1


async def test_validate_only_stores_nothing(audit: "Audit", database: Database) -> None:
    request = pb.AppendAuditLogRequest(log=pb.AuditLog(action="a", cid=CID), validate_only=True)
    assert (await audit.AppendAuditLog(request)).log.cid == CID
    assert stored(database) == 0


LIST_WITH_NOTHING = Struct()
LIST_WITH_NOTHING.fields["x"].list_value.values.add()

BAD_ENTRIES = {
    "action": [
        pb.AuditLog(),
        pb.AuditLog(action="x" * 101),
        pb.AuditLog(action="a\0"),
        pb.AuditLog(action="vsync.v1.CidService/CreateCid"),
    ],
    "actor": [pb.AuditLog(action="a", actor="x" * 201), pb.AuditLog(action="a", actor="\0")],
    "on_behalf_of": [
        pb.AuditLog(action="a", on_behalf_of="\ufdfa" * 12),  # 216 characters after normalization
        pb.AuditLog(action="a", on_behalf_of="line\nfeed"),
        pb.AuditLog(action="a", on_behalf_of="\x1b[31mred"),
        pb.AuditLog(action="a", on_behalf_of="\u202eright to left"),
    ],
    "resource": [pb.AuditLog(action="a", resource="zero\u200bwidth"), pb.AuditLog(action="a", resource="x" * 256)],
    "correlation_id": [
        pb.AuditLog(action="a", correlation_id="x" * 129),
        pb.AuditLog(action="a", correlation_id="with space"),
        pb.AuditLog(action="a", correlation_id="é"),
        pb.AuditLog(action="a", correlation_id="end\n"),
    ],
    "key_value": [pb.AuditLog(action="a", key_value="x" * 78), pb.AuditLog(action="a", key_value="111.222.333-00")],
    "cid": [pb.AuditLog(action="a", cid="00"), pb.AuditLog(action="a", cid="g" * 64)],
    "payload": [
        pb.AuditLog(action="a", payload=payload(text="a\0b")),
        pb.AuditLog(action="a", payload=payload(**{"na\0me": 1})),
        pb.AuditLog(action="a", payload=payload(n=float("nan"))),
        pb.AuditLog(action="a", payload=payload(n=[{"m": float("-inf")}])),
        pb.AuditLog(action="a", payload=payload(text="é" * 8192)),
        pb.AuditLog(action="a", payload=LIST_WITH_NOTHING),
    ],
}


async def test_a_bad_field_is_named(audit: "Audit", database: Database) -> None:
    for field, logs in BAD_ENTRIES.items():
        for log in logs:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await audit.AppendAuditLog(pb.AppendAuditLogRequest(log=log))
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT, log
            assert fields_of(raised.value) == [f"log.{field}"], log
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await audit.BatchAppendAuditLogs(pb.BatchAppendAuditLogsRequest(logs=[pb.AuditLog(action="a"), log]))
            assert fields_of(raised.value) == [f"logs[1].{field}"], log
    assert stored(database) == 0


async def test_identifiers_are_normalized_and_the_payload_is_stored_as_sent(audit: "Audit") -> None:
    wide = "\uff41\u0301"  # a full-width a with a combining accent
    sent = pb.AuditLog(action=wide, actor=wide, resource=wide, correlation_id="\uff11", payload=payload(**{wide: wide}))
    appended = (await audit.AppendAuditLog(pb.AppendAuditLogRequest(log=sent))).log
    assert (appended.action, appended.on_behalf_of, appended.resource, appended.correlation_id) == ("á", "á", "á", "1")
    assert appended.payload == sent.payload
    listing = pb.ListAuditLogsRequest(resource=wide)
    assert list((await audit.ListAuditLogs(listing)).logs) == [appended]


async def test_a_caller_cannot_set_who_recorded_an_entry(audit: "Audit") -> None:
    log = pb.AuditLog(action="a", recorded_by="dns:victim", actor="dns:victim")
    appended = (await audit.AppendAuditLog(pb.AppendAuditLogRequest(log=log))).log
    assert (appended.recorded_by, appended.on_behalf_of, appended.actor) == ("anonymous", "dns:victim", "dns:victim")


async def test_a_batch_whose_normalized_texts_are_too_large_for_a_response_is_refused(audit: "Audit") -> None:
    logs = [pb.AuditLog(action="a", resource="\ufdfa" * 14)] * 500  # 42 bytes each, 462 after normalization
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await audit.BatchAppendAuditLogs(pb.BatchAppendAuditLogsRequest(logs=logs))
    assert fields_of(raised.value) == ["logs"]


async def test_every_bad_field_is_named_at_once(audit: "Audit") -> None:
    log = pb.AuditLog(cid="x", actor="\0", resource="\u202e", action="vsync\u2024v1", correlation_id="\x1b")
    request = pb.AppendAuditLogRequest(log=log, request_id="not one")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await audit.AppendAuditLog(request)
    fields = {"log.action", "log.cid", "log.actor", "log.resource", "log.correlation_id", "request_id"}
    assert set(fields_of(raised.value)) == fields


async def test_a_batch_has_1_to_1000_entries(audit: "Audit") -> None:
    for count in (0, 1001):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await audit.BatchAppendAuditLogs(pb.BatchAppendAuditLogsRequest(logs=[pb.AuditLog(action="a")] * count))
        assert fields_of(raised.value) == ["logs"]


async def test_a_batch_with_a_too_large_response_is_refused(audit: "Audit", database: Database) -> None:
    log = pb.AuditLog(action="a", payload=payload(text="x" * 16_000))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await audit.BatchAppendAuditLogs(pb.BatchAppendAuditLogsRequest(logs=[log] * 13))
    assert fields_of(raised.value) == ["logs"]
    assert stored(database) == 0


async def test_an_unknown_id_is_not_found_and_an_invalid_one_is_an_invalid_argument(audit: "Audit") -> None:
    for identifier, reason in (
        ("", "INVALID_FIELD"),
        ("0" * 32, "INVALID_FIELD"),
        ("00000000-0000-0000-0000-000000000000", "AUDIT_LOG_NOT_FOUND"),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", "AUDIT_LOG_NOT_FOUND"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await audit.GetAuditLog(pb.GetAuditLogRequest(id=identifier))
        assert reason_of(raised.value) == reason
