"""The methods of CidService: stored records, audit entries, events and counts."""

from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from vsync.v1 import cid_pb2 as pb
from vsyncd.core.ids import time_of

from tests.harness.cids import (
    ISPB,
    Stub,
    a_record,
    a_request_id,
    cid_of,
    create,
    execute,
    failure_of,
    info_of,
    rows,
    some_records,
    until,
)
from tests.harness.clusters import Database

pytestmark = pytest.mark.both_versions

CORRELATION_ID = "0af7651916cd43dd8448eb211c80319c"


def audit_of(database: Database) -> list[dict[str, Any]]:
    """Returns all audit entries, oldest first."""
    return rows(database, "SELECT *, encode(cid, 'hex') AS cid_hex FROM vsync.audit_logs ORDER BY id")


def events_of(database: Database) -> list[tuple[str, str, UUID | None]]:
    """Returns all events in order: ADDED or REMOVED, the cid, and the id of the audit entry."""
    found = rows(database, "SELECT change, encode(cid, 'hex') AS cid, audit_id FROM vsync.cid_events ORDER BY seq")
    return [(("", "ADDED", "REMOVED")[row["change"]], row["cid"], row["audit_id"]) for row in found]


async def counted(cids: Stub, ispb: str = "") -> dict[tuple[int, int], int]:
    """Returns the counts of CountCids by key type and status."""
    response = await cids.CountCids(pb.CountCidsRequest(ispb=ispb))
    counts = {(int(count.key_type), int(count.sync_status)): count.count for count in response.counts}
    assert response.total == sum(counts.values())
    return counts


async def test_a_mutation_without_effect_has_no_audit_entry(cids: Stub, database: Database) -> None:
    deleted = await cids.BatchDeleteCids(pb.BatchDeleteCidsRequest(cids=[cid_of(1)], request_id=a_request_id()))
    assert list(deleted.missing) == [cid_of(1)]
    status = pb.UpdateSyncStatusRequest(cids=[cid_of(1)], sync_status=pb.SYNC_STATUS_SYNCED)
    assert (await cids.UpdateSyncStatus(status)).updated == 0
    assert rows(database, "SELECT FROM vsync.audit_logs") == []


async def test_a_created_record_is_returned_found_audited_and_counted(cids: Stub, database: Database) -> None:
    call = cids.CreateCid(pb.CreateCidRequest(record=a_record(1)), metadata=(("x-correlation-id", CORRELATION_ID),))
    record = (await call).record
    assert dict(await call.trailing_metadata())["x-correlation-id"] == CORRELATION_ID

    given = a_record(1)
    for field in ("cid", "key_type", "key_value", "ispb", "branch", "account_number", "account_type", "tax_id"):
        assert getattr(record, field) == getattr(given, field)
    assert (record.dict_request_id, record.sync_status, record.revision) == (given.dict_request_id, 1, 1)
    assert record.created_at.ToDatetime() == record.updated_at.ToDatetime()
    assert time_of(UUID(record.id)).replace(tzinfo=None) == record.created_at.ToDatetime()
    assert not record.HasField("synced_at")
    assert not record.HasField("last_error")

    for request in (
        pb.GetCidRequest(id=record.id),
        pb.GetCidRequest(cid=record.cid.upper()),
        pb.GetCidRequest(key=pb.CidKey(key_value=record.key_value, ispb=ISPB)),
    ):
        assert (await cids.GetCid(request)).record == record

    [entry] = audit_of(database)
    assert entry["id"] == UUID(record.id)
    assert (entry["action"], entry["recorded_by"], entry["correlation_id"]) == (
        "vsync.v1.CidService/CreateCid",
        "anonymous",
        CORRELATION_ID,
    )
    assert (entry["key_value"], entry["cid_hex"]) == (record.key_value, record.cid)
    assert events_of(database) == [("ADDED", record.cid, UUID(record.id))]
    assert await counted(cids) == {(1, 1): 1}


async def test_records_of_all_key_types_are_created_in_one_batch_and_counted_separately(
    cids: Stub, database: Database
) -> None:
    keys = {
        pb.KEY_TYPE_CPF: "12345678901",
        pb.KEY_TYPE_CNPJ: "12ABC34501DE35",
        pb.KEY_TYPE_PHONE: "+5511987654321",
        pb.KEY_TYPE_EMAIL: "ana.lima+pix@example.com",
        pb.KEY_TYPE_EVP: "123e4567-e89b-12d3-a456-426614174000",
    }
    records = [a_record(n, key_type=kind, key_value=key) for n, (kind, key) in enumerate(keys.items())]
    records.append(a_record(9, ispb="99999999"))
    records[0].ClearField("branch")
    records[0].ClearField("dict_request_id")
    created = (await cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=records))).records

    assert [record.cid for record in created] == [record.cid for record in records]
    assert not created[0].HasField("branch")
    assert not created[0].HasField("dict_request_id")
    got = await cids.BatchGetCids(pb.BatchGetCidsRequest(cids=[cid_of(77), *(record.cid for record in records)]))
    assert list(got.records) == list(created)
    assert list(got.missing) == [cid_of(77)]

    [entry] = audit_of(database)
    assert entry["action"] == "vsync.v1.CidService/BatchCreateCids"
    assert entry["payload"] == {"records": 6}
    assert events_of(database) == [
        ("ADDED", record.cid, entry["id"]) for record in sorted(records, key=lambda r: r.cid)
    ]
    assert await counted(cids) == {(1, 1): 2, (2, 1): 1, (3, 1): 1, (4, 1): 1, (5, 1): 1}
    assert await counted(cids, "99999999") == {(1, 1): 1}
    assert await counted(cids, "00000000") == {}


@pytest.mark.parametrize(
    ("conflict", "reason", "field"),
    [({"key_value": "00000000042"}, "CID_EXISTS", "cid"), ({"cid": "ab" * 32}, "KEY_EXISTS", "key")],
)
async def test_a_conflict_names_the_existing_record_and_changes_nothing(
    cids: Stub, database: Database, conflict: dict[str, str], reason: str, field: str
) -> None:
    [existing] = await create(cids, [1])
    batch = pb.BatchCreateCidsRequest(records=[a_record(2), a_record(1, **conflict)])
    single = pb.CreateCidRequest(record=a_record(1, **conflict))
    for error, index in (
        (await failure_of(cids.CreateCid(single)), None),
        (await failure_of(cids.BatchCreateCids(batch)), "1"),
    ):
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        info = info_of(error)
        expected = {"existing_id": existing.id, "field": field, "revision": "1"}
        assert (info.reason, info.domain) == (reason, "vsyncd")
        assert dict(info.metadata) == (expected if index is None else expected | {"index": index})
    assert await counted(cids) == {(1, 1): 1}
    assert len(audit_of(database)) == 1


async def test_an_update_changes_the_account_the_cid_and_the_status(cids: Stub, database: Database) -> None:
    [record] = await create(cids, [1])
    await cids.UpdateSyncStatus(pb.UpdateSyncStatusRequest(cids=[record.cid], sync_status=pb.SYNC_STATUS_SYNCED))
    updated = (
        await cids.UpdateCid(
            pb.UpdateCidRequest(
                key=pb.CidKey(key_value=record.key_value, ispb=record.ispb),
                update=pb.CidUpdate(cid=cid_of(2), account_number="77", account_type=pb.ACCOUNT_TYPE_SVGS, branch="9"),
                update_mask=FieldMask(paths=["cid", "account_number", "account_type", "dict_request_id", "branch"]),
                revision=2,
            )
        )
    ).record
    assert (updated.cid, updated.account_number, updated.account_type) == (cid_of(2), "77", pb.ACCOUNT_TYPE_SVGS)
    assert (updated.branch, updated.revision, updated.sync_status) == ("9", 3, pb.SYNC_STATUS_PENDING)
    assert not updated.HasField("dict_request_id")
    assert (updated.id, updated.key_value, updated.tax_id) == (record.id, record.key_value, record.tax_id)
    assert (await cids.GetCid(pb.GetCidRequest(id=record.id))).record == updated

    entry = audit_of(database)[-1]
    assert entry["action"] == "vsync.v1.CidService/UpdateCid"
    assert (entry["key_value"], entry["cid_hex"]) == (record.key_value, cid_of(2))
    assert entry["payload"]["fields"] == ["account_number", "account_type", "branch", "cid", "dict_request_id"]
    assert events_of(database)[1:] == [("REMOVED", record.cid, entry["id"]), ("ADDED", cid_of(2), entry["id"])]
    assert await counted(cids) == {(1, 1): 1}


async def test_an_impossible_update_names_its_obstacle(cids: Stub) -> None:
    first, second = await create(cids, [1, 2])

    def request(**changes: Any) -> pb.UpdateCidRequest:
        fields: dict[str, Any] = {"id": first.id, "update": pb.CidUpdate(cid=cid_of(3))}
        return pb.UpdateCidRequest(**fields | changes, update_mask=FieldMask(paths=["cid"]))

    stale = await failure_of(cids.UpdateCid(request(revision=7)))
    assert (stale.code(), info_of(stale).reason) == (grpc.StatusCode.ABORTED, "REVISION_MISMATCH")
    assert info_of(stale).metadata["revision"] == "1"
    taken = await failure_of(cids.UpdateCid(request(update=pb.CidUpdate(cid=second.cid))))
    assert (taken.code(), info_of(taken).metadata["existing_id"]) == (grpc.StatusCode.ALREADY_EXISTS, second.id)
    gone = await failure_of(cids.UpdateCid(request(id=str(UUID(int=5)))))
    assert (gone.code(), info_of(gone).reason) == (grpc.StatusCode.NOT_FOUND, "CID_NOT_FOUND")
    same = await failure_of(cids.UpdateCid(request(update=pb.CidUpdate(cid=first.cid))))
    assert (same.code(), info_of(same).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert (await cids.GetCid(pb.GetCidRequest(id=first.id))).record == first


async def test_update_sync_status_updates_existing_records_and_returns_the_missing(
    cids: Stub, database: Database
) -> None:
    await create(cids, range(4))
    wanted = [cid_of(9), cid_of(0), cid_of(1), cid_of(8)]
    failed = await cids.UpdateSyncStatus(
        pb.UpdateSyncStatusRequest(cids=wanted, sync_status=pb.SYNC_STATUS_FAILED, error="refused: ação")
    )
    assert (failed.updated, list(failed.missing)) == (2, [cid_of(9), cid_of(8)])
    record = (await cids.GetCid(pb.GetCidRequest(cid=cid_of(0)))).record
    assert (record.last_error, record.revision, record.sync_status) == ("refused: ação", 2, pb.SYNC_STATUS_FAILED)
    assert await counted(cids) == {(1, 1): 2, (1, 3): 2}

    await cids.UpdateSyncStatus(pb.UpdateSyncStatusRequest(cids=[cid_of(0)], sync_status=pb.SYNC_STATUS_SYNCED))
    record = (await cids.GetCid(pb.GetCidRequest(cid=cid_of(0)))).record
    assert record.HasField("synced_at")
    assert not record.HasField("last_error")
    assert await counted(cids) == {(1, 1): 2, (1, 2): 1, (1, 3): 1}
    entries = audit_of(database)[1:]
    assert entries[0]["payload"] == {"sync_status": 3, "records": 2, "missing": 2}
    assert entries[1]["cid_hex"] == cid_of(0)
    assert len(events_of(database)) == 4, "a change of the status is not an event"


async def test_deleted_records_keep_their_audit_entries_and_events(cids: Stub, database: Database) -> None:
    records = await create(cids, range(5))
    wrong = await failure_of(cids.DeleteCid(pb.DeleteCidRequest(cid=records[0].cid, revision=4)))
    assert wrong.code() is grpc.StatusCode.ABORTED
    await cids.DeleteCid(pb.DeleteCidRequest(cid=records[0].cid, revision=1))
    await cids.DeleteCid(pb.DeleteCidRequest(key=pb.CidKey(key_value=records[1].key_value, ispb=ISPB)))
    again = await failure_of(cids.DeleteCid(pb.DeleteCidRequest(id=records[0].id)))
    assert info_of(again).reason == "CID_NOT_FOUND"
    answer = await cids.BatchDeleteCids(pb.BatchDeleteCidsRequest(cids=[cid_of(n) for n in (0, 2, 3)]))
    assert list(answer.missing) == [cid_of(0)]

    entries = audit_of(database)[1:]
    assert [entry["action"].rsplit("/")[-1] for entry in entries] == ["DeleteCid", "DeleteCid", "BatchDeleteCids"]
    assert entries[0]["key_value"] == records[0].key_value
    assert entries[2]["payload"] == {"records": 2, "missing": 1}
    removed = [event for event in events_of(database) if event[0] == "REMOVED"]
    assert removed[:2] == [("REMOVED", cid_of(n), entries[n]["id"]) for n in (0, 1)]
    assert {event[1:] for event in removed[2:]} == {(cid_of(n), entries[2]["id"]) for n in (2, 3)}
    assert await counted(cids) == {(1, 1): 1}


async def test_counts_include_manual_changes_and_survive_folding(cids: Stub, database: Database) -> None:
    await create(cids, range(10))
    execute(database, "UPDATE vsync.cids SET sync_status = 2, synced_at = now() WHERE key_value = '00000000000'")
    execute(database, "DELETE FROM vsync.cids WHERE key_value = '00000000001'")
    execute(database, "UPDATE vsync.cids SET ispb = '87654321' WHERE key_value = '00000000002'")
    execute(
        database,
        "INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)"
        " VALUES (decode(%s, 'hex'), 5, '123e4567-e89b-12d3-a456-426614174000', %s, '1', 1, '12345678901')",
        cid_of(50),
        ISPB,
    )
    expected = {(1, 1): 8, (1, 2): 1, (5, 1): 1}
    assert await counted(cids) == expected

    def folded() -> bool:
        # The service folds too; only one of the two folds at a time.
        rows(database, "SELECT vsync.fold_cid_totals()")
        return len(rows(database, "SELECT FROM vsync.cid_totals")) == len(expected) + 1

    await until(folded)
    assert await counted(cids) == expected
    assert await counted(cids, "87654321") == {(1, 1): 1}
    manual = [event for event in events_of(database) if event[2] is None]
    assert sorted(event[:2] for event in manual) == sorted(
        [("REMOVED", cid_of(1)), ("REMOVED", cid_of(2)), ("ADDED", cid_of(2)), ("ADDED", cid_of(50))]
    )


async def test_validate_only_returns_the_result_and_changes_nothing(cids: Stub, database: Database) -> None:
    first, second = await create(cids, [1, 2])
    before = (audit_of(database), events_of(database), await counted(cids))
    answer = await cids.CreateCid(pb.CreateCidRequest(record=a_record(3), validate_only=True))
    assert answer.record.cid == cid_of(3)
    batch = await cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=some_records(3, 10), validate_only=True))
    assert len(batch.records) == 3
    update = pb.UpdateCidRequest(
        id=first.id,
        update=pb.CidUpdate(cid=cid_of(4)),
        update_mask=FieldMask(paths=["cid"]),
        validate_only=True,
        request_id=str(UUID(int=1)),
    )
    assert (await cids.UpdateCid(update)).record.revision == 2
    status = pb.UpdateSyncStatusRequest(cids=[first.cid], sync_status=pb.SYNC_STATUS_SYNCED, validate_only=True)
    assert (await cids.UpdateSyncStatus(status)).updated == 1
    await cids.DeleteCid(pb.DeleteCidRequest(id=first.id, validate_only=True))
    await cids.BatchDeleteCids(pb.BatchDeleteCidsRequest(cids=[second.cid], validate_only=True))
    conflict = await failure_of(cids.CreateCid(pb.CreateCidRequest(record=a_record(1), validate_only=True)))
    assert info_of(conflict).reason == "CID_EXISTS"

    assert (audit_of(database), events_of(database), await counted(cids)) == before
    assert (await cids.GetCid(pb.GetCidRequest(id=first.id))).record == first
    assert rows(database, "SELECT FROM vsync.request_ids") == []
