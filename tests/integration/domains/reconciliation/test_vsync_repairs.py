"""Repairs of VSyncs after changes without triggers, and after a restore."""

import asyncio

import psycopg
import pytest
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb

from tests.harness.cids import ISPB, Stub, a_record, create, execute, rows, until
from tests.harness.clusters import Database
from tests.harness.reconciliation import Reconciliation, fold, kept, model


async def test_changes_without_triggers_are_found_and_repaired(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    await create(cids, range(20))
    execute(
        database,
        "ALTER TABLE vsync.cids DISABLE TRIGGER USER; DELETE FROM vsync.cids WHERE key_value < '00000000005';"
        "ALTER TABLE vsync.cids ENABLE TRIGGER USER",
    )
    request = pb.RecomputeVsyncRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF)
    scan = await reconciliation.RecomputeVsync(request)
    assert (scan.vsync.count, scan.kept_vsync.count, scan.agrees) == (15, 20, False)
    with psycopg.connect(database.owner) as connection:
        assert connection.execute("SELECT vsync.rebuild_cid_totals()").fetchone() == (1,)
    assert (await reconciliation.RecomputeVsync(request)).agrees
    assert kept(database) == model(database)


async def test_a_rebuild_during_writes_repairs_exactly_the_wrong_groups(cids: Stub, database: Database) -> None:
    await create(cids, range(200))
    execute(
        database,
        "ALTER TABLE vsync.cids DISABLE TRIGGER USER; DELETE FROM vsync.cids WHERE key_value < '00000000005';"
        "ALTER TABLE vsync.cids ENABLE TRIGGER USER",
    )

    def rebuild() -> None:
        execute(database, "SELECT vsync.rebuild_cid_totals()")

    async def write() -> None:
        for first in range(1000, 1200, 10):
            await create(cids, range(first, first + 10))

    await asyncio.gather(write(), write_other(cids), *(asyncio.to_thread(rebuild) for _ in range(4)))
    assert kept(database) == model(database)


async def write_other(cids: Stub) -> None:
    """Writes concurrently to the writer above."""
    for number in range(2000, 2100):
        await cids.CreateCid(cid_pb2.CreateCidRequest(record=a_record(number)))


async def test_a_restored_database_has_correct_counts(cids: Stub, database: Database) -> None:
    """pg_restore inserts the rows of the last fold with transaction ids of another cluster."""
    await create(cids, range(30))
    await until(lambda: fold(database))
    before = rows(database, "SELECT feed FROM vsync.last_fold")[0]["feed"]
    foreign = "INSERT INTO vsync.cid_folds (transaction_id, snapshot, feed) VALUES ('9', '999999999:999999999:', %s)"
    with psycopg.connect(database.owner) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('vsyncd fold_cid_totals \"vsync\"', 0))")
        connection.execute("DELETE FROM vsync.cid_folds")
        connection.execute(foreign, [before])
    await create(cids, range(100, 120))
    assert kept(database) == model(database)
    await until(lambda: rows(database, "SELECT feed FROM vsync.last_fold")[0]["feed"] == before + 1)
    await create(cids, range(200, 220))
    assert kept(database) == model(database)
    assert rows(database, "SELECT DISTINCT feed FROM vsync.cid_events WHERE feed > %s", before)


async def test_a_fold_in_a_subtransaction_is_refused_and_events_continue(cids: Stub, database: Database) -> None:
    """Its row would look like one of another cluster."""
    with psycopg.connect(database.owner) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('vsyncd fold_cid_totals \"vsync\"', 0))")
        await create(cids, range(3))
        before = rows(database, "SELECT feed_id, is_ours FROM vsync.last_fold")
        with pytest.raises(psycopg.errors.InvalidTransactionState, match="subtransaction"), connection.transaction():
            connection.execute("SELECT vsync.fold_cid_totals()")
        connection.execute("SELECT vsync.fold_cid_totals()")
    assert rows(database, "SELECT feed_id, is_ours FROM vsync.last_fold") == before
    assert before[0]["is_ours"]
    assert kept(database) == model(database)
