"""Tokens of watches and lists: none skips lost events."""

import asyncio
from typing import Any

import grpc
import psycopg
import pytest
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb
from vsyncd.domains.reconciliation import event_streams

from tests.harness.cids import ISPB, Stub, cid_of, create, failure_of, info_of, rows, until
from tests.harness.clusters import Database
from tests.harness.reconciliation import LONG_AGO, Reconciliation, timestamp
from tests.integration.domains.reconciliation.feed import VISIBLE, truth, watching


async def refusal(reconciliation: Reconciliation, token: str) -> tuple[grpc.StatusCode, str]:
    """Returns the error of a watch with this token."""
    error = await failure_of(anext(aiter(reconciliation.WatchCidEvents(pb.WatchCidEventsRequest(resume_token=token)))))
    return error.code(), info_of(error).reason


GONE = (grpc.StatusCode.OUT_OF_RANGE, "EVENTS_GONE")


async def test_a_token_of_a_lost_event_is_out_of_range(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    """As after a failover that has lost the event, or after its partition was dropped."""
    await create(cids, [1])
    await until(lambda: rows(database, VISIBLE)[0]["all"], seconds=60)
    async with watching(reconciliation) as watcher:
        token = watcher.token
        with psycopg.connect(database.admin) as connection:
            connection.execute("ALTER TABLE vsync.cid_events DISABLE TRIGGER USER")
            connection.execute("DELETE FROM vsync.cid_events")
        await create(cids, [2])
        assert await refusal(reconciliation, token) == GONE
    request = pb.ListCidEventsRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, created_after=LONG_AGO)
    error = await failure_of(reconciliation.ListCidEvents(request))
    assert (error.code(), info_of(error).reason) == GONE


def insert(connection: psycopg.Connection[Any], number: int) -> None:
    """Inserts a record in the transaction of the connection."""
    connection.execute(
        "INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)"
        " VALUES (decode(%s, 'hex'), 1, %s, %s, '1', 1, '12345678901')",
        [cid_of(number), f"{number:011d}", ISPB],
    )


@pytest.mark.parametrize("resumed", [True, False])
async def test_lost_events_are_detected_although_the_last_event_exists(
    reconciliation: Reconciliation, database: Database, resumed: bool
) -> None:
    """As after a failover that has lost the end of the log: the last committed event is not the last one in order."""
    async with watching(reconciliation) as watcher:
        with psycopg.connect(database.owner) as slow, psycopg.connect(database.owner) as fast:
            insert(slow, 1)
            insert(fast, 2)
            fast.commit()
            slow.commit()
        await until(lambda: len(watcher.events) == 2, seconds=60)
        assert [event[2] for event in watcher.events] == [cid_of(1), cid_of(2)]
        if resumed:
            async with watching(reconciliation, resume_token=watcher.token) as again:
                assert again.events == []
        with psycopg.connect(database.admin) as connection:
            connection.execute("ALTER TABLE vsync.cid_events DISABLE TRIGGER USER")
            connection.execute("DELETE FROM vsync.cid_events WHERE cid = decode(%s, 'hex')", [cid_of(1)])
            connection.execute("ALTER TABLE vsync.cid_events ENABLE TRIGGER USER")
        if resumed:
            assert await refusal(reconciliation, watcher.token) == GONE
            return
        # The continuing stream detects the loss with the next events.
        with psycopg.connect(database.owner) as connection:
            insert(connection, 3)
        async with asyncio.timeout(60):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watcher.task
        assert (caught.value.code(), info_of(caught.value).reason) == GONE
        assert len(watcher.events) == 2


async def test_tokens_are_valid_during_and_after_a_long_transaction(
    cids: Stub, reconciliation: Reconciliation, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All events meanwhile have the same horizon, and the count continues from message to message."""
    monkeypatch.setattr(event_streams, "BATCH_EVENTS", 3)
    with psycopg.connect(database.owner) as slow:
        insert(slow, 1)
        for number in range(10, 30):
            await create(cids, [number])
        async with watching(reconciliation) as watcher:
            slow.commit()
            await until(lambda: len(watcher.events) == 21, seconds=60)
            await create(cids, [40])
            await until(lambda: len(watcher.events) == 22, seconds=60)
    assert watcher.events == truth(database)
    assert len(watcher.tokens) > 7
    for token in watcher.tokens.values():
        async with watching(reconciliation, resume_token=token):
            pass  # the token is accepted
    with psycopg.connect(database.admin) as connection:
        connection.execute("ALTER TABLE vsync.cid_events DISABLE TRIGGER USER")
        connection.execute("DELETE FROM vsync.cid_events WHERE cid = decode(%s, 'hex')", [cid_of(1)])
    held_back = [token for number, token in watcher.tokens.items() if 0 < number < 22]
    assert {await refusal(reconciliation, token) for token in held_back} == {GONE}


async def test_a_list_whose_events_are_lost_between_pages_is_out_of_range(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    await create(cids, range(5))
    await until(lambda: rows(database, VISIBLE)[0]["all"], seconds=60)
    begin = rows(database, "SELECT min(created_at) AS at FROM vsync.cid_events")[0]["at"]
    request = pb.ListCidEventsRequest(
        ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, created_after=timestamp(begin), page_size=3
    )
    first = await reconciliation.ListCidEvents(request)
    assert len(first.events) == 3
    with psycopg.connect(database.admin) as connection:
        connection.execute("ALTER TABLE vsync.cid_events DISABLE TRIGGER USER")
        connection.execute("DELETE FROM vsync.cid_events WHERE cid = decode(%s, 'hex')", [first.events[2].cid])
        connection.execute("DELETE FROM vsync.cid_events WHERE seq > %s", [first.events[2].sequence + 1])
    request.page_token = first.next_page_token
    error = await failure_of(reconciliation.ListCidEvents(request))
    assert (error.code(), info_of(error).reason) == GONE


async def test_a_token_from_before_a_restore_is_out_of_range(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    await create(cids, [1])
    async with watching(reconciliation) as watcher:
        token = watcher.token
    old = rows(database, "SELECT feed FROM vsync.last_fold")[0]["feed"]
    with psycopg.connect(database.owner) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('vsyncd fold_cid_totals \"vsync\"', 0))")
        connection.execute("DELETE FROM vsync.cid_folds")
        connection.execute(
            "INSERT INTO vsync.cid_folds (transaction_id, snapshot, feed) VALUES ('9', '99999999:99999999:', %s)", [old]
        )
    await until(lambda: rows(database, "SELECT feed FROM vsync.last_fold")[0]["feed"] == old + 1)
    assert await refusal(reconciliation, token) == GONE
    async with watching(reconciliation) as watcher:
        await create(cids, [2])
        expected = truth(database)[-1:]
        await until(lambda: watcher.events == expected, seconds=60)
