"""Each rule that bounds staleness, tested where no other rule would help."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.cache.encoding import CID
from vsyncd.cache.invalidator import Invalidator
from vsyncd.cache.lookups import Lookup, NotCached
from vsyncd.cache.read_through import Loaded, ReadThrough
from vsyncd.cache.watermark import Watermark
from vsyncd.config import Settings
from vsyncd.observability.metrics import CACHE_EVENTS, CACHE_LOOKUPS, REGISTRY

from tests.harness.cids import Stub, cid_of, create, execute, rows, until
from tests.harness.clusters import Database
from tests.harness.valkey import ValkeyServer
from tests.integration.cache.instances import (
    cache_in_use,
    eventually,
    instance,
    invalidated,
    looked_up,
    server_of,
    stored,
)

CIDS = [bytes.fromhex(cid_of(1))]
BRANCH = "UPDATE vsync.cids SET branch = %s"


def services(application: Application) -> tuple[ReadThrough, Invalidator]:
    assert application.cache is not None
    return application.cache.records, application.cache.invalidator


async def branch(cids: Stub) -> str:
    return (await cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))).record.branch


async def reads(cids: Stub, expected: str) -> bool:
    return await branch(cids) == expected


async def test_a_record_that_was_loaded_before_a_change_is_not_stored_after_it(
    application: Application, database: Database
) -> None:
    records, _ = services(application)

    async def load(_digests: Sequence[bytes]) -> list[Loaded]:
        """A slow reader: the change is invalidated before the loaded record is stored."""
        execute(database, "INSERT INTO vsync.cid_changes (added, cids) VALUES (false, %s)", CIDS[0])
        await invalidated(application)
        return [Loaded(b"before", server_of(application))]

    refused = CACHE_EVENTS.value("refused")

    async def loaded() -> bool:
        return await records.get(Lookup(CID, CIDS[0]), load) == b"before"

    await eventually(loaded)
    await until(lambda: CACHE_EVENTS.value("refused") > refused)

    async def missing() -> bool:
        results = await records._lookups.find_many([Lookup(CID, CIDS[0])])
        assert results is None or results[0].payload is NotCached.MISS
        return results is not None

    await eventually(missing)


async def test_entries_of_a_redis_that_was_restored_from_an_old_dump_are_not_used(
    application: Application, cids: Stub, valkey: ValkeyServer, database: Database, entries: Callable[[], int]
) -> None:
    records, invalidator = services(application)
    await create(cids, [1])
    await invalidated(application)
    await stored(1, entries, lambda: branch(cids))
    with valkey.client() as client:
        client.save()
    execute(database, BRANCH, "77")
    await invalidated(application)
    # Without the invalidator, only the rule remains that a watermark must cover the confirmed one.
    assert invalidator._task is not None
    invalidator._task.cancel()
    valkey.stop()
    valkey.start()
    assert entries() == 1, "the old entry is back"
    misses = 0
    while invalidator.is_current and misses < 10:
        results = await records._lookups.find_many([Lookup(CID, CIDS[0])])
        assert results is None or results[0].payload is NotCached.MISS
        misses += results is not None
        await asyncio.sleep(0.01)
    assert await branch(cids) == "77"


@pytest.mark.parametrize("ahead", [1_000_000, 1 << 62])
async def test_a_watermark_that_is_ahead_of_the_database_is_replaced(
    application: Application, cids: Stub, valkey: ValkeyServer, database: Database, ahead: int
) -> None:
    _, invalidator = services(application)
    await create(cids, [1])
    await invalidated(application)
    await looked_up("hit", lambda: branch(cids))
    with valkey.client() as client:
        key = client.keys("vsync:feed*")[0]
        forged = Watermark.decode(client.get(key))
        assert forged is not None
        xid = forged.snapshot.xmax + ahead
        client.set(key, replace(forged, nonce=b"forgery.", snapshot_text=f"{xid}:{xid}:").encode())
    execute(database, BRANCH, "77")
    await eventually(partial(reads, cids, "77"))
    await invalidated(application)
    assert invalidator.watermark is not None
    assert invalidator.watermark.snapshot.xmax < xid


async def test_the_gauge_reports_at_each_scrape_whether_the_cache_is_in_use(application: Application) -> None:
    """Also while the invalidator waits for a server that hangs."""
    _, invalidator = services(application)
    assert invalidator._task is not None
    await until(lambda: REGISTRY.get_sample_value("vsyncd_cache_current") == 1)
    invalidator._task.cancel()
    await until(lambda: not invalidator.is_current)
    assert REGISTRY.get_sample_value("vsyncd_cache_current") == 0


async def test_an_instance_that_cannot_poll_the_change_feed_bypasses_the_cache(
    application: Application, cids: Stub, database: Database, entries: Callable[[], int]
) -> None:
    _, invalidator = services(application)
    await create(cids, [1])
    await invalidated(application)
    await stored(1, entries, lambda: branch(cids))
    with psycopg.connect(database.owner) as connection:
        # Polls wait for this lock.
        connection.execute("LOCK TABLE vsync.cache_epoch IN ACCESS EXCLUSIVE MODE")
        await until(lambda: not invalidator.is_current)
        bypassed = CACHE_LOOKUPS.value("cid", "bypass")
        assert await branch(cids) == "0001"
        assert CACHE_LOOKUPS.value("cid", "bypass") == bypassed + 1
        # It retries on new connections, and ends the polls that wait for the lock on the server.
        pids: set[int] = set()
        concurrent: list[int] = []

        def retried() -> bool:
            query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
            current = {row["pid"] for row in rows(database, query, "vsyncd cache")}
            pids.update(current)
            concurrent.append(len(current))
            return len(pids) > 4

        await until(retried)
        assert max(concurrent) <= 2
    await cache_in_use(application)


@pytest.mark.parametrize(
    "loss",
    [
        "TRUNCATE vsync.cache_epoch, vsync.cid_changes",  # as after a crash of PostgreSQL
        "UPDATE vsync.cache_epoch SET dropped = pg_current_xact_id()",  # unprocessed changes were dropped
    ],
)
async def test_lost_changes_invalidate_every_entry(
    application: Application, cids: Stub, database: Database, entries: Callable[[], int], loss: str
) -> None:
    await create(cids, [1])
    await invalidated(application)
    await stored(1, entries, lambda: branch(cids))
    execute(database, "ALTER TABLE vsync.cids DISABLE TRIGGER cids_note_updated")
    execute(database, BRANCH, "77")
    # The change is not in the feed. On a machine that stalls, a read bypasses the cache.
    await eventually(partial(reads, cids, "0001"))
    execute(database, loss)
    await eventually(partial(reads, cids, "77"))


@contextlib.contextmanager
def copied(database: Database) -> Iterator[Database]:
    """A copy of a database without connections, on the same server."""
    name = f"{database.name}_copy"
    with psycopg.connect(database.admin, dbname="postgres", autocommit=True) as server:
        names = (sql.Identifier(name), sql.Identifier(database.name))
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
        try:
            admin, owner, service = (
                make_conninfo(each, dbname=name) for each in (database.admin, database.owner, database.service)
            )
            yield replace(database, name=name, admin=admin, owner=owner, service=service)
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(names[0]))


async def test_entries_of_a_database_are_not_used_for_a_copy_of_it(settings: Settings, database: Database) -> None:
    """The copy has the same secret, the same oids of tables, and the same start time of the server."""
    async with instance(settings) as (application, cids):
        await create(cids, [1])
        await invalidated(application)
        await looked_up("hit", lambda: branch(cids))
    with copied(database) as copy:
        execute(copy, BRANCH, "77")
        # The watermark is advanced past this change, which is not in the original.
        async with instance(settings) as (application, cids):
            await looked_up("hit", lambda: branch(cids))
            original = server_of(application)
        for database_url, expected in ((copy.service_url, "77"), (database.service_url, "0001")):
            async with instance(settings, database_url=database_url) as (application, cids):
                await looked_up("hit", lambda cids=cids: branch(cids))  # type: ignore[misc]  # a default binds the loop's variable
                assert await branch(cids) == expected
                assert (server_of(application) == original) == (expected == "0001")


async def test_changes_are_dropped_long_after_every_cache_has_processed_them(
    application: Application, cids: Stub, database: Database
) -> None:
    await create(cids, [1])
    await invalidated(application)
    execute(database, "UPDATE vsync.cid_changes SET created_at = now() - interval '11 minutes'")

    def dropped() -> bool:
        """As soon as no transaction of the whole server is older."""
        execute(database, "SELECT vsync.drop_cid_changes()")
        return bool(rows(database, "SELECT count(*) AS n FROM vsync.cid_changes")[0]["n"] == 0)

    await until(dropped)
    await invalidated(application)
    assert await branch(cids) == "0001"
