"""Events: each committed one once and in order, also with overlapping transactions."""

import asyncio
import contextlib
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from vsync.directory import xor
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb
from vsyncd.domains.reconciliation import event_streams
from vsyncd.domains.reconciliation.event_repository import EventBatch, EventRepository

from tests.harness.cids import ISPB, Stub, cid_of, create, execute, failure_of, rows, until
from tests.harness.clusters import Database
from tests.harness.reconciliation import Reconciliation, kept, model, timestamp
from tests.harness.serving import fields_of
from tests.integration.domains.reconciliation.feed import VISIBLE, seen, truth, watching


def overlapping(database: Database, seed: int) -> None:
    """Executes transactions that write, commit and abort in another order than that of their ids."""
    rng = random.Random(seed)  # noqa: S311  deterministic test data
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(psycopg.connect(database.owner)) for _ in range(6)]
        busy: list[psycopg.Connection] = []
        number = seed * 10_000
        for _ in range(120):
            if idle and (not busy or rng.random() < 0.5):
                connection = idle.pop()
                busy.append(connection)
            else:
                connection = rng.choice(busy)
            if rng.random() < 0.7:
                number += 1
                if rng.random() < 0.2:
                    connection.execute("SAVEPOINT s")
                connection.execute(
                    "INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)"
                    " SELECT decode(%s, 'hex'), %s, lpad(%s::text, 11, '0'), %s, '1', 1, '12345678901'"
                    " WHERE NOT EXISTS (SELECT FROM vsync.cids WHERE key_value = lpad(%s::text, 11, '0'))",
                    [cid_of(number), 1, number, ISPB, number],
                )
                if rng.random() < 0.1:
                    connection.execute("DELETE FROM vsync.cids WHERE cid = decode(%s, 'hex')", [cid_of(number)])
            else:
                busy.remove(connection)
                idle.append(connection)
                if rng.random() < 0.7:
                    connection.commit()
                else:
                    connection.rollback()
        for connection in busy:
            connection.commit()


@pytest.mark.both_versions
async def test_each_committed_event_is_delivered_once_and_in_order(
    reconciliation: Reconciliation, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_streams, "POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(event_streams, "BATCH_EVENTS", 7)
    async with (
        watching(reconciliation) as whole,
        watching(reconciliation, cut=11, ispb=ISPB, key_type=1) as cut,
        watching(reconciliation, key_type=5) as other,
    ):
        await asyncio.gather(*(asyncio.to_thread(overlapping, database, seed) for seed in (1, 2, 3)))
        expected = truth(database)
        assert len(expected) > 100
        await until(lambda: len(whole.events) >= len(expected) and len(cut.events) >= len(expected), seconds=60)
        assert whole.events == cut.events == expected
        assert other.events == []
        token = other.token
    execute(database, "DELETE FROM vsync.cids")
    async with watching(reconciliation, key_type=5, resume_token=token) as other:
        assert other.events == []


async def test_an_open_transaction_delays_later_events(
    cids: Stub, reconciliation: Reconciliation, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = 0
    next_batch = EventRepository.next_batch

    async def counted(self: EventRepository, *args: Any, **kwargs: Any) -> EventBatch | None:
        nonlocal polls
        batch = await next_batch(self, *args, **kwargs)
        polls += 1
        return batch

    monkeypatch.setattr(EventRepository, "next_batch", counted)
    monkeypatch.setattr(event_streams, "POLL_INTERVAL_S", 0.01)
    async with watching(reconciliation) as watcher:
        with psycopg.connect(database.owner) as connection:
            connection.execute("SELECT pg_current_xact_id()")
            await create(cids, [1])
            async with watching(reconciliation, resume_token=watcher.token) as again:
                polls = 0
                await until(lambda: polls >= 20)  # of both streams
                assert watcher.events == again.events == []
                connection.commit()
                await until(lambda: watcher.events == again.events == truth(database), seconds=60)


ADD = """
    INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)
    SELECT sha256(n::text::bytea), 1, lpad(n::text, 11, '0'), '12345678', '1', 1, '12345678901'
    FROM generate_series(1, 2) AS n
"""
# Each statement deletes the first record and gives its cid to another one.
HANDOVERS = (
    """
    WITH gone AS (DELETE FROM vsync.cids WHERE key_value = '00000000001' RETURNING cid)
    UPDATE vsync.cids SET cid = gone.cid FROM gone WHERE key_value = '00000000002'
    """,
    """
    MERGE INTO vsync.cids USING (VALUES ('00000000001'), ('00000000002')) AS wanted (key) ON key_value = key
    WHEN MATCHED AND key = '00000000001' THEN DELETE
    WHEN MATCHED THEN UPDATE SET cid = sha256('1')
    """,
    """
    MERGE INTO vsync.cids USING (VALUES ('00000000001'), ('00000000003')) AS wanted (key) ON key_value = key
    WHEN MATCHED THEN DELETE
    WHEN NOT MATCHED THEN INSERT (cid, key_type, key_value, ispb, account_number, account_type, tax_id)
        VALUES (sha256('1'), 1, key, '12345678', '1', 1, '12345678901')
    """,
)


@pytest.mark.both_versions
@pytest.mark.parametrize("handover", HANDOVERS)
def test_a_cid_removed_and_added_by_one_statement_is_removed_first(database: Database, handover: str) -> None:
    execute(database, ADD)
    execute(database, handover)
    query = "SELECT change FROM vsync.cid_events WHERE cid = sha256('1') ORDER BY transaction_id, seq"
    assert [row["change"] for row in rows(database, query)] == [1, 2, 1]
    assert kept(database) == model(database)


async def test_the_events_of_a_list_explain_the_difference_of_both_vsyncs(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    await create(cids, range(10))
    before = model(database)[ISPB, 1]
    begin = rows(database, "SELECT clock_timestamp() AS now")[0]["now"]
    await create(cids, range(20, 40))
    await cids.BatchDeleteCids(cid_pb2.BatchDeleteCidsRequest(cids=[cid_of(n) for n in range(15)]))
    after = model(database)[ISPB, 1]
    end = rows(database, "SELECT clock_timestamp() AS now")[0]["now"]
    await create(cids, range(50, 55))
    await until(lambda: rows(database, VISIBLE)[0]["all"], seconds=60)
    with psycopg.connect(database.owner) as someone:
        # This transaction begins before and commits after the first page, so its events are on no page.
        someone.execute("DELETE FROM vsync.cids WHERE key_value = '00000000020'")
        await create(cids, range(60, 63))

        request = pb.ListCidEventsRequest(
            ispb=ISPB,
            key_type=cid_pb2.KEY_TYPE_CPF,
            created_after=timestamp(begin),
            created_before=timestamp(end),
            page_size=7,
        )
        first = await reconciliation.ListCidEvents(request)
        someone.commit()
    assert (first.vsync_before.vsync, first.vsync_before.count) == before
    assert (first.vsync_after.vsync, first.vsync_after.count) == after
    events = list(first.events)
    request.page_token = first.next_page_token
    while request.page_token:
        page = await reconciliation.ListCidEvents(request)
        assert not page.HasField("vsync_before")
        events += page.events
        request.page_token = page.next_page_token
    assert len(events) == 30
    assert [seen(event) for event in events] == sorted(seen(event) for event in events)
    assert xor(before[0], *(event.cid for event in events)) == after[0]
    assert all(event.audit_id for event in events)

    request = pb.ListCidEventsRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, created_after=timestamp(end))
    now = model(database)[ISPB, 1]
    rest = await reconciliation.ListCidEvents(request)
    async with asyncio.timeout(60):
        # Older transactions of other databases of the server also delay events.
        while rest.vsync_after.count not in {now[1], now[1] + 1}:  # the transaction that began before
            rest = await reconciliation.ListCidEvents(request)
    assert (rest.vsync_before.vsync, rest.vsync_before.count) == after
    assert xor(after[0], *(event.cid for event in rest.events)) == rest.vsync_after.vsync
    assert (rest.vsync_after.count - after[1]) == sum(1 if event.change == 1 else -1 for event in rest.events)

    nothing = pb.ListCidEventsRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_EVP, created_after=timestamp(end))
    answer = await reconciliation.ListCidEvents(nothing)
    assert (list(answer.events), answer.vsync_before, answer.next_page_token) == ([], answer.vsync_after, "")


async def test_a_bad_list_names_every_field(reconciliation: Reconciliation) -> None:
    error = await failure_of(reconciliation.ListCidEvents(pb.ListCidEventsRequest(page_size=-1)))
    assert fields_of(error) == ["ispb", "key_type", "created_after", "page_size"]
    now = datetime.now(UTC)
    for end in (now + timedelta(days=32), now - timedelta(seconds=1)):
        request = pb.ListCidEventsRequest(
            ispb=ISPB,
            key_type=cid_pb2.KEY_TYPE_CPF,
            created_after=timestamp(now),
            created_before=timestamp(end),
        )
        assert fields_of(await failure_of(reconciliation.ListCidEvents(request))) == ["created_before"]
    late = pb.ListCidEventsRequest(
        ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, created_after=timestamp(datetime(9999, 12, 31, tzinfo=UTC))
    )
    assert not (await reconciliation.ListCidEvents(late)).events
    token = pb.WatchCidEventsRequest(resume_token="x")
    error = await failure_of(anext(aiter(reconciliation.WatchCidEvents(token))))
    assert fields_of(error) == ["resume_token"]
