"""Concurrent creations share a statement and do not affect each other."""

import asyncio
from uuid import UUID

import grpc
import psycopg
import pytest
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
    stored,
    until,
    waiting_for_locks,
)
from tests.harness.clusters import Database


async def test_of_200_concurrent_creations_exactly_the_conflicting_ones_fail(cids: Stub, database: Database) -> None:
    await create(cids, range(10))
    conflicting = [a_record(n, key_value=f"9{n:010d}") for n in range(5)] + [
        a_record(n, cid=cid_of(900 + n)) for n in range(5, 10)
    ]
    fresh = [a_record(n) for n in range(100, 290)]
    records = [*fresh[:95], *conflicting, *fresh[95:]]
    requests = [pb.CreateCidRequest(record=record, request_id=a_request_id()) for record in records]
    answers = await asyncio.gather(*map(cids.CreateCid, requests), return_exceptions=True)

    for record, answer in zip(records, answers, strict=True):
        if isinstance(answer, pb.CreateCidResponse):
            assert answer.record.cid == record.cid
        else:
            assert isinstance(answer, grpc.aio.AioRpcError)
            assert answer.code() is grpc.StatusCode.ALREADY_EXISTS
            assert record in conflicting
    assert set(stored(database)) == {record.cid for record in fresh} | {cid_of(n) for n in range(10)}
    created = [answer.record for answer in answers if isinstance(answer, pb.CreateCidResponse)]
    audited = rows(
        database,
        "SELECT id, encode(cid, 'hex') AS cid, key_value FROM vsync.audit_logs"
        " WHERE action = 'vsync.v1.CidService/CreateCid'",
    )
    assert {(row["id"], row["cid"], row["key_value"]) for row in audited} == {
        (UUID(record.id), record.cid, record.key_value) for record in created
    }
    events = rows(
        database,
        "SELECT encode(e.cid, 'hex') AS cid FROM vsync.cid_events AS e"
        " JOIN vsync.audit_logs AS a ON a.id = e.audit_id AND a.cid = e.cid",
    )
    assert {row["cid"] for row in events} == {record.cid for record in created}
    assert (await cids.CountCids(pb.CountCidsRequest())).total == 200


async def test_each_creation_of_a_batch_is_audited_with_its_own_correlation_id(cids: Stub, database: Database) -> None:
    await asyncio.gather(
        *(
            cids.CreateCid(pb.CreateCidRequest(record=a_record(n)), metadata=(("x-correlation-id", f"{n:032x}"),))
            for n in range(30)
        )
    )
    found = rows(database, "SELECT correlation_id, key_value FROM vsync.audit_logs")
    assert {(row["correlation_id"], row["key_value"]) for row in found} == {
        (f"{n:032x}", f"{n:011d}") for n in range(30)
    }


async def test_a_lock_only_delays_the_creation_that_needs_it(cids: Stub, database: Database) -> None:
    with psycopg.connect(database.owner) as other:
        other.execute(
            "INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)"
            " VALUES (decode(%s, 'hex'), 1, '77777777777', '12345678', '1', 1, '12345678901')",
            [cid_of(5)],
        )
        blocked = asyncio.create_task(_create(cids, 5))
        others = await asyncio.gather(*(_create(cids, n) for n in range(20, 60)))
        assert len(others) == 40
        await until(lambda: waiting_for_locks(database) == 1)
        assert not blocked.done()
        other.rollback()
    assert (await blocked).cid == cid_of(5)


async def test_a_deadline_of_one_creation_does_not_affect_the_others(cids: Stub, database: Database) -> None:
    with psycopg.connect(database.owner) as other:
        other.execute("LOCK TABLE vsync.cids IN EXCLUSIVE MODE")
        expiring = [cids.CreateCid(pb.CreateCidRequest(record=a_record(n)), timeout=0.3) for n in range(3)]
        waiting = [asyncio.create_task(_create(cids, n)) for n in range(10, 20)]
        for call in expiring:
            assert (await failure_of(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        other.rollback()
    assert len(await asyncio.gather(*waiting)) == 10
    assert {cid_of(n) for n in range(10, 20)} <= set(stored(database))


async def test_a_cancelled_creation_does_not_affect_the_others(cids: Stub, database: Database) -> None:
    with psycopg.connect(database.owner) as other:
        other.execute("LOCK TABLE vsync.cids IN EXCLUSIVE MODE")
        calls = [cids.CreateCid(pb.CreateCidRequest(record=a_record(n))) for n in range(20)]
        await until(lambda: waiting_for_locks(database) > 0)
        for call in calls[::2]:
            call.cancel()
        other.rollback()
    for call in calls[1::2]:
        assert (await call).record.revision == 1
    assert {cid_of(n) for n in range(1, 20, 2)} <= set(stored(database))
    assert (await cids.CountCids(pb.CountCidsRequest())).total == len(stored(database))


async def test_concurrent_reads_return_their_own_records(cids: Stub) -> None:
    records = await create(cids, range(50))
    keys = [pb.CidKey(key_value=record.key_value, ispb=record.ispb) for record in records]
    requests = [
        *(pb.GetCidRequest(id=record.id) for record in records),
        *(pb.GetCidRequest(cid=record.cid) for record in records),
        *(pb.GetCidRequest(key=key) for key in keys),
        *(pb.GetCidRequest(key=keys[0]) for _ in range(5)),
        *(pb.GetCidRequest(cid=cid_of(1000 + n)) for n in range(50)),
    ]
    answers = await asyncio.gather(*map(cids.GetCid, requests), return_exceptions=True)
    assert [answer.record for answer in answers[:155]] == [*records * 3, *[records[0]] * 5]  # type: ignore[union-attr]  # no error
    assert all(info_of(answer).reason == "CID_NOT_FOUND" for answer in answers[155:])  # type: ignore[arg-type]  # errors


@pytest.mark.both_versions
async def test_concurrent_updates_of_the_same_records_all_take_effect(cids: Stub) -> None:
    """Records are locked in one order, and a transaction that deadlocks is executed again."""
    await create(cids, range(40))
    forth = [cid_of(n) for n in range(40)]
    requests = [
        pb.UpdateSyncStatusRequest(cids=forth[:: 1 if n % 2 else -1], sync_status=pb.SYNC_STATUS_SYNCED)
        for n in range(12)
    ]
    answers = await asyncio.gather(*map(cids.UpdateSyncStatus, requests))
    assert [answer.updated for answer in answers] == [40] * 12
    assert (await cids.GetCid(pb.GetCidRequest(cid=cid_of(7)))).record.revision == 13


async def _create(cids: Stub, number: int) -> pb.CidRecord:
    return (await cids.CreateCid(pb.CreateCidRequest(record=a_record(number), request_id=a_request_id()))).record
