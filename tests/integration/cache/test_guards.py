"""Each of the rules that keep the cache from being out of date, tried where nothing else would help."""

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
from vsyncd.cache.invalidator import Invalidator
from vsyncd.cache.keys import CID
from vsyncd.cache.lookups import Lookup, NotCached
from vsyncd.cache.read_through import Loaded, ReadThrough
from vsyncd.cache.watermark import Watermark
from vsyncd.config import Settings
from vsyncd.observability.metrics import CACHE, REGISTRY

from tests.harness.cids import Stub, cid_of, create, execute, rows, until
from tests.harness.clusters import Database
from tests.harness.valkey import ValkeyServer
from tests.integration.cache.instances import believed, followed, found, instance, server_of, stored, when

CIDS = [bytes.fromhex(cid_of(1))]
BRANCH = "UPDATE vsync.cids SET branch = %s"


def parts(application: Application) -> tuple[ReadThrough, Invalidator]:
    assert application.cache is not None
    return application.cache.records, application.cache.follower


async def branch(cids: Stub) -> str:
    return (await cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))).record.branch


async def reads(cids: Stub, expected: str) -> bool:
    return await branch(cids) == expected


async def test_what_was_loaded_before_a_change_is_not_stored_after_it(
    application: Application, database: Database
) -> None:
    records, _ = parts(application)

    async def load(_digests: Sequence[bytes]) -> list[Loaded]:
        """A reader that is slow: the feed is past the change before he stores what he saw."""
        execute(database, "INSERT INTO vsync.cid_changes (added, cids) VALUES (false, %s)", CIDS[0])
        await followed(application)
        return [Loaded(b"before", server_of(application))]

    refused = CACHE.event_count("refused")

    async def loaded() -> bool:
        return await records.get(Lookup(CID, CIDS[0]), load) == b"before"

    await when(loaded)
    await until(lambda: CACHE.event_count("refused") > refused)

    async def it_is_missing() -> bool:
        founds = await records._lookups.look_at_all([Lookup(CID, CIDS[0])])
        assert founds is None or founds[0].answer is NotCached.MISS
        return founds is not None

    await when(it_is_missing)


async def test_a_cache_that_goes_back_in_time_is_not_believed(
    application: Application, cids: Stub, valkey: ValkeyServer, database: Database, entries: Callable[[], int]
) -> None:
    records, follower = parts(application)
    await create(cids, [1])
    await followed(application)
    await stored(1, entries, lambda: branch(cids))
    with valkey.client() as client:
        client.save()
    execute(database, BRANCH, "77")
    await followed(application)
    # From here on nobody follows: only the rule that a place has to cover the confirmed one is left.
    assert follower._task is not None
    follower._task.cancel()
    valkey.stop()
    valkey.start()
    assert entries() == 1, "the old entry is back"
    seen = 0
    while follower.current and seen < 10:
        founds = await records._lookups.look_at_all([Lookup(CID, CIDS[0])])
        assert founds is None or founds[0].answer is NotCached.MISS
        seen += founds is not None
        await asyncio.sleep(0.01)
    assert await branch(cids) == "77"


@pytest.mark.parametrize("ahead", [1_000_000, 1 << 62])
async def test_a_place_that_is_ahead_of_the_database_is_not_believed(
    application: Application, cids: Stub, valkey: ValkeyServer, database: Database, ahead: int
) -> None:
    _, follower = parts(application)
    await create(cids, [1])
    await followed(application)
    await found("hit", lambda: branch(cids))
    with valkey.client() as client:
        name = client.keys("vsync:feed*")[0]
        forged = Watermark.decode(client.get(name))
        assert forged is not None
        xid = forged.snapshot.xmax + ahead
        client.set(name, replace(forged, mark=b"forgery.", seen=f"{xid}:{xid}:").encode())
    execute(database, BRANCH, "77")
    await when(partial(reads, cids, "77"))
    await followed(application)
    assert follower._place is not None
    assert follower._place.snapshot.xmax < xid


async def test_the_gauge_says_at_each_scrape_whether_the_cache_is_believed(application: Application) -> None:
    """Also while whoever follows waits for a server that hangs."""
    _, follower = parts(application)
    assert follower._task is not None
    await until(lambda: REGISTRY.get_sample_value("vsyncd_cache_current") == 1)
    follower._task.cancel()
    await until(lambda: not follower.current)
    assert REGISTRY.get_sample_value("vsyncd_cache_current") == 0


async def test_who_cannot_follow_stops_believing(
    application: Application, cids: Stub, database: Database, entries: Callable[[], int]
) -> None:
    _, follower = parts(application)
    await create(cids, [1])
    await followed(application)
    await stored(1, entries, lambda: branch(cids))
    with psycopg.connect(database.owner) as connection:
        # Whoever asks for changes waits for this.
        connection.execute("LOCK TABLE vsync.cache_epoch IN ACCESS EXCLUSIVE MODE")
        await until(lambda: not follower.current)
        bypassed = CACHE.lookup_count("cid", "bypass")
        assert await branch(cids) == "0001"
        assert CACHE.lookup_count("cid", "bypass") == bypassed + 1
        # It tries again and again, and leaves nothing behind on the server that waits for the lock.
        tried: set[int] = set()
        at_once: list[int] = []

        def often() -> bool:
            query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
            there = {row["pid"] for row in rows(database, query, "vsyncd cache")}
            tried.update(there)
            at_once.append(len(there))
            return len(tried) > 4

        await until(often)
        assert max(at_once) <= 2
    await believed(application)


@pytest.mark.parametrize(
    "loss",
    [
        "TRUNCATE vsync.cache_epoch, vsync.cid_changes",  # as a crash of PostgreSQL does
        "UPDATE vsync.cache_epoch SET dropped = pg_current_xact_id()",  # more was dropped than had been taken in
    ],
)
async def test_changes_that_were_lost_make_it_forget_everything(
    application: Application, cids: Stub, database: Database, entries: Callable[[], int], loss: str
) -> None:
    await create(cids, [1])
    await followed(application)
    await stored(1, entries, lambda: branch(cids))
    execute(database, "ALTER TABLE vsync.cids DISABLE TRIGGER cids_note_updated")
    execute(database, BRANCH, "77")
    # Nobody was told; but on a machine that stalls a read goes past the cache.
    await when(partial(reads, cids, "0001"))
    execute(database, loss)
    await when(partial(reads, cids, "77"))


@contextlib.contextmanager
def copied(database: Database) -> Iterator[Database]:
    """A copy of a database that nobody is connected to, in the same server."""
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


async def test_what_is_cached_of_a_database_does_not_count_for_a_copy_of_it(
    settings: Settings, database: Database
) -> None:
    """It has the same secret, tables of the same oids, and a server that was started at the same time."""
    async with instance(settings) as (application, cids):
        await create(cids, [1])
        await followed(application)
        await found("hit", lambda: branch(cids))
    with copied(database) as copy:
        execute(copy, BRANCH, "77")
        # The place is moved past this change, which the original knows nothing of.
        async with instance(settings) as (application, cids):
            await found("hit", lambda: branch(cids))
            original = server_of(application)
        for database_url, expected in ((copy.service_url, "77"), (database.service_url, "0001")):
            async with instance(settings, database_url=database_url) as (application, cids):
                await found("hit", lambda cids=cids: branch(cids))  # type: ignore[misc]  # a default binds the loop's variable
                assert await branch(cids) == expected
                assert (server_of(application) == original) == (expected == "0001")


async def test_changes_are_dropped_when_every_cache_has_long_taken_them_in(
    application: Application, cids: Stub, database: Database
) -> None:
    await create(cids, [1])
    await followed(application)
    execute(database, "UPDATE vsync.cid_changes SET created_at = now() - interval '11 minutes'")

    def they_are() -> bool:
        """As soon as no transaction of the whole server is older."""
        execute(database, "SELECT vsync.drop_cid_changes()")
        return bool(rows(database, "SELECT count(*) AS n FROM vsync.cid_changes")[0]["n"] == 0)

    await until(they_are)
    await followed(application)
    assert await branch(cids) == "0001"
