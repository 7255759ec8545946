"""The feed: every committed event once, in order, whatever overlaps; and no token that leads past what is gone."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from vsync.dict import xor
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb
from vsyncd.reconciliation import event_streams
from vsyncd.reconciliation.feed import Batch, FeedRepository

from tests.harness.cids import ISPB, Stub, cid_of, create, execute, failure_of, info_of, rows, until
from tests.harness.clusters import Database
from tests.harness.reconciliation import LONG_AGO, Reconciliation, model, timestamp
from tests.harness.serving import fields_of

EVENTS = """
    SELECT transaction_id::text::bigint AS t, seq, encode(cid, 'hex') AS cid, change FROM vsync.cid_events ORDER BY 1, 2
"""
# Whether no transaction that is older than an event is running still, in any database of the server.
VISIBLE = "SELECT bool_and(transaction_id < pg_snapshot_xmin(pg_current_snapshot())) AS all FROM vsync.cid_events"
Seen = tuple[int, int, str, int]


def seen(event: pb.CidEvent) -> Seen:
    """What is compared."""
    return (event.transaction_id, event.sequence, event.cid, event.change)


def truth(database: Database) -> list[Seen]:
    """All that is committed, in order."""
    return [(row["t"], row["seq"], row["cid"], row["change"]) for row in rows(database, EVENTS)]


class Watcher:
    """Follows the feed in the background; every so often its stream is cut, and resumed."""

    def __init__(self, reconciliation: Reconciliation, request: pb.WatchCidEventsRequest, *, cut: int = 0) -> None:
        self._reconciliation = reconciliation
        self._request = request
        self._cut = cut
        self.events: list[Seen] = []
        self.tokens: dict[int, str] = {}
        """By the number of events before them."""
        self.ready = asyncio.Event()
        self.task = asyncio.create_task(self.run())

    @property
    def token(self) -> str:
        """Behind what was received."""
        return self._request.resume_token

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            call = self._reconciliation.WatchCidEvents(self._request)
            received = 0
            async for answer in call:
                self.events += map(seen, answer.events)
                self._request.resume_token = answer.resume_token
                self.tokens[len(self.events)] = answer.resume_token
                self.ready.set()
                received += len(answer.events)
                if self._cut and received > self._cut:
                    call.cancel()
                    break


@contextlib.asynccontextmanager
async def watching(reconciliation: Reconciliation, *, cut: int = 0, **request: object) -> AsyncIterator[Watcher]:
    """A watcher that has its first token."""
    watcher = Watcher(reconciliation, pb.WatchCidEventsRequest(**request), cut=cut)  # type: ignore[arg-type]  # fields by name
    async with asyncio.timeout(20):
        await watcher.ready.wait()
    try:
        yield watcher
    finally:
        watcher.task.cancel()
        await asyncio.gather(watcher.task, return_exceptions=True)


def overlapping(database: Database, seed: int) -> None:
    """Transactions that begin, write, commit and abort in another order than they got their numbers in."""
    rng = random.Random(seed)  # noqa: S311  the same each time
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
async def test_every_committed_event_comes_once_and_in_order(
    reconciliation: Reconciliation, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_streams, "LOOK", 0.01)
    monkeypatch.setattr(event_streams, "BATCH", 7)
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


async def test_an_open_transaction_holds_back_what_came_behind_it(
    cids: Stub, reconciliation: Reconciliation, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    behind = FeedRepository.behind

    async def counted(self: FeedRepository, *args: Any, **kwargs: Any) -> Batch | None:
        nonlocal looks
        batch = await behind(self, *args, **kwargs)
        looks += 1
        return batch

    monkeypatch.setattr(FeedRepository, "behind", counted)
    monkeypatch.setattr(event_streams, "LOOK", 0.01)
    async with watching(reconciliation) as watcher:
        with psycopg.connect(database.owner) as connection:
            connection.execute("SELECT pg_current_xact_id()")
            await create(cids, [1])
            async with watching(reconciliation, resume_token=watcher.token) as again:
                looks = 0
                await until(lambda: looks >= 20)  # of both, turn by turn
                assert watcher.events == again.events == []
                connection.commit()
                await until(lambda: watcher.events == again.events == truth(database), seconds=60)


async def test_a_list_leads_from_the_vsync_before_to_the_vsync_after(
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
        # It began before, and will be committed after the first page: it is on none.
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
        # Transactions of the server's other databases hold events back too: any older one that has not ended.
        while rest.vsync_after.count not in {now[1], now[1] + 1}:  # the one that began before
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
    token = pb.WatchCidEventsRequest(resume_token="x")
    error = await failure_of(anext(aiter(reconciliation.WatchCidEvents(token))))
    assert fields_of(error) == ["resume_token"]


# -- what is gone -----------------------------------------------------------------------------------------------------


async def refusal(reconciliation: Reconciliation, token: str) -> tuple[grpc.StatusCode, str]:
    """What a watcher with this token is told."""
    error = await failure_of(anext(aiter(reconciliation.WatchCidEvents(pb.WatchCidEventsRequest(resume_token=token)))))
    return error.code(), info_of(error).reason


GONE = (grpc.StatusCode.OUT_OF_RANGE, "EVENTS_GONE")


async def test_a_token_whose_event_is_gone_is_out_of_range(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    """As after a failover that lost it, and after its partition was dropped."""
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
    """One record, in the connection's transaction."""
    connection.execute(
        "INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)"
        " VALUES (decode(%s, 'hex'), 1, %s, %s, '1', 1, '12345678901')",
        [cid_of(number), f"{number:011d}", ISPB],
    )


@pytest.mark.parametrize("resumed", [True, False])
async def test_what_was_given_and_is_gone_is_found_out_also_where_the_last_event_is_there(
    reconciliation: Reconciliation, database: Database, resumed: bool
) -> None:
    """As after a restore or a failover that lost the end of the log: what was committed last is not the last event."""
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
        # The stream that goes on finds it out with the next events.
        with psycopg.connect(database.owner) as connection:
            insert(connection, 3)
        async with asyncio.timeout(60):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watcher.task
        assert (caught.value.code(), info_of(caught.value).reason) == GONE
        assert len(watcher.events) == 2


async def test_behind_a_transaction_that_was_open_for_long_a_token_is_as_good(
    cids: Stub, reconciliation: Reconciliation, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that comes meanwhile has one horizon, and is counted on from message to message."""
    monkeypatch.setattr(event_streams, "BATCH", 3)
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
            pass  # it is taken
    with psycopg.connect(database.admin) as connection:
        connection.execute("ALTER TABLE vsync.cid_events DISABLE TRIGGER USER")
        connection.execute("DELETE FROM vsync.cid_events WHERE cid = decode(%s, 'hex')", [cid_of(1)])
    held_back = [token for number, token in watcher.tokens.items() if 0 < number < 22]
    assert {await refusal(reconciliation, token) for token in held_back} == {GONE}


async def test_a_list_whose_events_go_while_it_is_read_is_out_of_range(
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
