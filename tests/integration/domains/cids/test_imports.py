"""ImportCids: the result of each record, and invalid streams."""

from uuid import NAMESPACE_URL, uuid5

import grpc
import pytest
from vsync.v1 import cid_pb2 as pb

from tests.harness.cids import (
    Stub,
    a_record,
    a_request_id,
    cid_of,
    create,
    info_of,
    messages,
    rows,
    some_records,
    stored,
)
from tests.harness.clusters import Database
from tests.integration.domains.cids.imports import (
    FAIL,
    REPLACE,
    Counts,
    a_start,
    counts_of,
    imported,
    iter_of,
    refused,
    totals_of,
)


@pytest.mark.both_versions
async def test_chunks_are_stored_answered_audited_and_counted(cids: Stub, database: Database) -> None:
    import_id = a_request_id()
    first, second = some_records(500), some_records(500, 500)
    for record in second:
        record.ClearField("branch")
        record.ClearField("dict_request_id")
    answers = await imported(cids, [(1, first), (2, second)], on_conflict=FAIL, import_id=import_id, status=2)
    assert [answer.number for answer in answers] == [0, 1, 2]
    assert [counts_of(answer) for answer in answers] == [Counts(), Counts(500), Counts(500)]
    assert totals_of(answers[-1]) == Counts(1000)

    got = await cids.BatchGetCids(pb.BatchGetCidsRequest(cids=[record.cid for record in (*first, *second)]))
    for sent, record in zip((*first, *second), got.records, strict=True):
        assert record.sync_status == pb.SYNC_STATUS_SYNCED
        assert record.synced_at == record.created_at == record.updated_at
        for field in ("id", "sync_status", "created_at", "updated_at", "synced_at", "revision"):
            record.ClearField(field)
        assert record == sent
    assert (await cids.CountCids(pb.CountCidsRequest())).total == 1000
    entries = rows(database, "SELECT * FROM vsync.audit_logs ORDER BY id")
    assert [entry["payload"] for entry in entries] == [
        {"import_id": import_id, "number": n, "inserted": 500, "skipped": 0, "replaced": 0, "rejected": 0}
        for n in (1, 2)
    ]
    events = rows(database, "SELECT audit_id, count(*) AS n FROM vsync.cid_events GROUP BY audit_id")
    assert {row["audit_id"]: row["n"] for row in events} == {entry["id"]: 500 for entry in entries}


@pytest.mark.both_versions
async def test_skip_leaves_existing_records_and_inserts_the_others(cids: Stub, database: Database) -> None:
    await create(cids, range(10))
    mixed = [a_record(3), a_record(4, cid=cid_of(400)), a_record(50), a_record(50, cid=cid_of(500)), a_record(51)]
    [_start, answer, fresh, again] = await imported(
        cids, [(1, mixed), (2, some_records(5, 60)), (3, some_records(5, 60))]
    )
    assert counts_of(answer) == Counts(inserted=2, skipped=3)
    assert (counts_of(fresh), counts_of(again)) == (Counts(5), Counts(skipped=5))
    assert totals_of(again) == Counts(7, 8)
    assert set(stored(database)) == {cid_of(n) for n in (*range(10), 50, 51, *range(60, 65))}
    assert (await cids.CountCids(pb.CountCidsRequest())).total == 17


async def test_a_duplicate_of_a_skipped_record_is_inserted(cids: Stub, database: Database) -> None:
    """The second record repeats the cid of the first. The third only repeats the key of the second."""
    chunk = [a_record(1), a_record(2, cid=cid_of(1)), a_record(2)]
    [_start, answer] = await imported(cids, [(1, chunk)])
    assert counts_of(answer) == Counts(inserted=2, skipped=1)
    assert set(stored(database)) == {cid_of(1), cid_of(2)}


@pytest.mark.both_versions
async def test_fail_rolls_back_the_chunk_names_the_record_and_ends_the_stream(cids: Stub, database: Database) -> None:
    [existing] = await create(cids, [25])
    requests = [
        request async for request in messages(a_request_id(), FAIL, [(n, some_records(10, n * 10)) for n in (1, 2, 3)])
    ]
    answers, error = await refused(cids, requests)
    assert answers == 2
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert info_of(error).reason == "CID_EXISTS"
    assert dict(info_of(error).metadata) == {"existing_id": existing.id, "field": "cid", "revision": "1", "index": "5"}
    assert set(stored(database)) == {cid_of(n) for n in (*range(10, 20), 25)}
    assert (await cids.CountCids(pb.CountCidsRequest())).total == 11

    await cids.DeleteCid(pb.DeleteCidRequest(id=existing.id))
    rest = [answer async for answer in cids.ImportCids(iter_of(requests))]
    assert [answer.number for answer in rest] == [1, 1, 2, 3]
    assert totals_of(rest[-1]) == Counts(30)


async def test_fail_rejects_duplicates_within_a_chunk(cids: Stub, database: Database) -> None:
    duplicates = [a_record(1), a_record(2), a_record(1)]
    requests = [request async for request in messages(a_request_id(), FAIL, [(1, duplicates)])]
    _answers, error = await refused(cids, requests)
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.ALREADY_EXISTS, "DUPLICATE_IN_CHUNK")
    assert info_of(error).metadata["index"] == "2"
    assert stored(database) == {}


@pytest.mark.both_versions
async def test_replace_updates_the_record_of_a_key_and_rejects_the_cid_of_another_key(
    cids: Stub, database: Database
) -> None:
    await create(cids, range(5))
    await cids.UpdateSyncStatus(
        pb.UpdateSyncStatusRequest(cids=[cid_of(0)], sync_status=pb.SYNC_STATUS_FAILED, error="x")
    )
    chunk = [
        a_record(0, cid=cid_of(100), branch="77"),
        a_record(1, account_number="9"),
        a_record(50, cid=cid_of(2)),
        a_record(51),
        a_record(51, cid=cid_of(151)),
        a_record(52, ispb="x"),
    ]
    [_start, answer, plain] = await imported(cids, [(1, chunk), (2, some_records(3, 60))], on_conflict=REPLACE)
    assert counts_of(answer) == Counts(inserted=1, replaced=2, rejected=3)
    assert [(one.index, one.reason) for one in answer.rejected] == [
        (2, "CID_EXISTS"),
        (4, "DUPLICATE_IN_CHUNK"),
        (5, "INVALID_FIELD"),
    ]
    assert [violation.field for violation in answer.rejected[2].violations] == ["ispb"]
    assert totals_of(plain) == Counts(4, 0, 2, 3)

    replaced = (await cids.GetCid(pb.GetCidRequest(cid=cid_of(100)))).record
    assert (replaced.key_value, replaced.branch, replaced.revision) == (a_record(0).key_value, "77", 3)
    assert (replaced.sync_status, replaced.HasField("last_error")) == (pb.SYNC_STATUS_PENDING, False)
    assert (await cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))).record.account_number == "9"
    assert set(stored(database)) == {cid_of(n) for n in (100, 1, 2, 3, 4, 51, 60, 61, 62)}
    events = rows(database, "SELECT change, encode(cid, 'hex') AS cid FROM vsync.cid_events WHERE cid = ANY (%s)", [
        bytes.fromhex(cid_of(n)) for n in (0, 1, 100)
    ])  # fmt: skip
    assert sorted((row["change"], row["cid"]) for row in events) == sorted(
        [(1, cid_of(0)), (1, cid_of(1)), (2, cid_of(0)), (1, cid_of(100))]
    ), "a record whose cid did not change has no event"
    assert (await cids.CountCids(pb.CountCidsRequest())).total == 9


def _chunk(number: int, records: list[pb.CidRecord] | None = None) -> pb.ImportCidsRequest:
    return pb.ImportCidsRequest(
        chunk=pb.ImportChunk(number=number, records=[a_record(abs(number))] if records is None else records)
    )


REFUSED: list[tuple[str, list[pb.ImportCidsRequest], str, int]] = [
    ("nothing at all", [], "IMPORT_NOT_STARTED", 0),
    ("an empty message", [pb.ImportCidsRequest()], "IMPORT_NOT_STARTED", 0),
    ("no start", [_chunk(1)], "IMPORT_NOT_STARTED", 0),
    ("two starts", [a_start(), a_start()], "IMPORT_STARTED_TWICE", 1),
    ("a gap at the start", [a_start(), _chunk(2)], "CHUNK_OUT_OF_ORDER", 1),
    ("a gap", [a_start(), _chunk(1), _chunk(3)], "CHUNK_OUT_OF_ORDER", 2),
    ("number 0", [a_start(), _chunk(0)], "INVALID_FIELD", 1),
    ("a negative number", [a_start(), _chunk(-1)], "INVALID_FIELD", 1),
    ("an empty chunk", [a_start(), _chunk(1, [])], "INVALID_FIELD", 1),
    ("1,001 records", [a_start(), _chunk(1, some_records(1001))], "INVALID_FIELD", 1),
    ("no import id", [a_start(import_id="")], "INVALID_FIELD", 0),
    ("no on_conflict", [a_start(on_conflict=0)], "INVALID_FIELD", 0),
    ("an unknown on_conflict", [a_start(on_conflict=4)], "INVALID_FIELD", 0),
    ("FAILED", [a_start(initial_sync_status=3)], "INVALID_FIELD", 0),
    ("other content", [a_start(), _chunk(1), _chunk(1, some_records(1, 50))], "CHUNK_REUSED", 2),
]


async def test_invalid_import_streams_are_refused(cids: Stub, subtests: pytest.Subtests) -> None:
    for name, requests, reason, before in REFUSED:
        with subtests.test(name):
            sent = [_with_own_id(request, name) for request in requests]
            answers, error = await refused(cids, sent)
            assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
            assert answers == before


def _with_own_id(request: pb.ImportCidsRequest, name: str) -> pb.ImportCidsRequest:
    if request.start.import_id:
        request.start.import_id = str(uuid5(NAMESPACE_URL, name))
    return request


async def test_bad_records_are_rejected_and_the_others_inserted(cids: Stub, database: Database) -> None:
    bad = pb.CidRecord(cid="secret-value", key_value="secret-value")
    [_start_answer, answer, all_bad] = await imported(cids, [(1, [bad, a_record(1), bad]), (2, [bad] * 1000)])
    assert [one.index for one in answer.rejected] == [0, 2]
    assert {violation.field for violation in answer.rejected[0].violations} == {
        *("cid", "key_type", "ispb", "account_number", "account_type", "tax_id")
    }
    assert b"secret-value" not in answer.SerializeToString()
    assert totals_of(all_bad) == Counts(inserted=1, rejected=1002)
    assert set(stored(database)) == {cid_of(1)}
