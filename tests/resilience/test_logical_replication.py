"""Logical replication into another server, and the switch to it. Its apply fires none of the triggers that keep VSyncs.

With every table published what is kept comes along; with `cids` alone it does not, which verify sees and rebuild mends.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from typing import NamedTuple

import grpc
import pytest
from vsync.v1 import reconciliation_pb2 as pb
from vsync.v1 import reconciliation_pb2_grpc
from vsyncd.app import Application
from vsyncd.config import Settings
from vsyncd.domains.reconciliation.admin import rebuild, verify

from tests.harness.cids import execute, rows, until
from tests.harness.clusters import OWNER, Database, migrate
from tests.harness.private_servers import Agent, PrivateServer
from tests.harness.reconciliation import diff, diff_requests, kept, model, timestamp
from tests.harness.recorded_writes import RecordedWrites
from tests.resilience.conftest import cids_of, describe, make_database, settings_of

FILL = """
    INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)
    SELECT sha256(n::text::bytea), 1, lpad(n::text, 11, '0'), lpad(mod(n, 3)::text, 8, '0'), '1', 1, '12345678901'
    FROM generate_series({}, {}) AS n
"""
# Two clusters that are minutes old have come about as far. A thousandth of a day's work sets any others apart.
APART = """
    DO $$ BEGIN
        WHILE pg_current_xact_id() < '{}'::xid8 LOOP COMMIT; END LOOP;
    END $$
"""
# Of the runbook: replication brings rows, and leaves sequences where they were.
CONTINUE = """
    SELECT setval(pg_get_serial_sequence('vsync.cid_events', 'seq'), max(seq)) FROM vsync.cid_events;
    SELECT setval(pg_get_serial_sequence('vsync.cid_totals', 'seq'), max(seq)) FROM vsync.cid_totals;
    SELECT setval(pg_get_serial_sequence('vsync.cid_folds', 'number'), max(number)) FROM vsync.cid_folds;
"""
# Far from the numbers that RecordedWrites creates.
FIRST = 900_000


class Site(NamedTuple):
    """A database, and the server it is in."""

    server: PrivateServer
    database: Database

    def execute(self, statement: str) -> None:
        """As the superuser, outside a transaction."""
        self.server.execute(statement, self.database.name)


@pytest.fixture
def publisher(agent: Agent) -> Iterator[Site]:
    """A migrated database of a server that can publish."""
    server = PrivateServer.fresh(agent, "publisher")
    server.start(wal_level="logical")
    yield Site(server, make_database(server, "published"))
    server.remove()


@pytest.fixture
def subscriber(server: PrivateServer) -> Iterator[Site]:
    """An empty database of the worker's server."""
    name = f"test_{secrets.token_hex(6)}"
    server.execute(f'CREATE DATABASE "{name}" OWNER "{OWNER}" TEMPLATE template0')
    yield Site(server, describe(server, name))
    server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def settings(database: Database) -> Settings:
    """Of vsyncd there."""
    return settings_of(database.service_url, db_migrate_url=database.owner_url)


def copy_schema(agent: Agent, publisher: Site, subscriber: Site) -> None:
    """To the subscriber, where ids of transactions are not those of the publisher."""
    [here] = rows(subscriber.database, "SELECT pg_current_xact_id()::text::bigint AS id")
    publisher.execute(APART.format(here["id"] + 5_000))
    execute(publisher.database, FILL.format(FIRST, FIRST + 300))
    schema = str(agent.folder / f"{subscriber.database.name}.sql")
    agent.run("pg_dump", "--schema-only", "-f", schema, "-d", publisher.database.admin)
    agent.run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", schema, "-d", subscriber.database.admin)


@contextlib.asynccontextmanager
async def subscribed(publisher: Site, subscriber: Site, published: str) -> AsyncIterator[None]:
    """The subscriber follows, and at the end of the block, which ends all writing, has everything and is cut off."""
    source = publisher.server.admin(publisher.database.name)
    publisher.execute(f"CREATE PUBLICATION vsyncd {published}")
    subscriber.execute(f"CREATE SUBSCRIPTION vsyncd CONNECTION '{source}' PUBLICATION vsyncd")
    try:
        yield
        await until(lambda: copied(subscriber.database), seconds=60)
        [end] = rows(publisher.database, "SELECT pg_current_wal_lsn() AS lsn")
        await until(lambda: followed(publisher.database, end["lsn"]), seconds=60)
    finally:
        await asyncio.to_thread(subscriber.execute, "DROP SUBSCRIPTION vsyncd")


def copied(subscriber: Database) -> bool:
    """Whether every table was copied and is followed."""
    whole: bool = rows(subscriber, "SELECT bool_and(srsubstate = 'r') AS whole FROM pg_subscription_rel")[0]["whole"]
    return whole


def followed(publisher: Database, end: str) -> bool:
    """Whether the subscriber has confirmed everything up to there."""
    query = "SELECT confirmed_flush_lsn >= %s::pg_lsn AS done FROM pg_replication_slots WHERE slot_name = 'vsyncd'"
    done: bool = rows(publisher, query, end)[0]["done"]
    return done


async def test_with_every_table_published_everything_is_right_after_the_switch(
    agent: Agent, publisher: Site, subscriber: Site
) -> None:
    copy_schema(agent, publisher, subscriber)
    async with (
        subscribed(publisher, subscriber, "FOR TABLES IN SCHEMA vsync"),
        Application(settings(publisher.database)) as application,
        cids_of(application) as cids,
    ):
        writes = RecordedWrites(cids)
        async with writes.by(8):
            await writes.progress(100)
            # Folds delete what they sum up, and that is followed too.
            await until(lambda: folds(publisher.database) > 2)
            await writes.progress(50)

    execute(subscriber.database, CONTINUE)
    truth = model(publisher.database)
    assert kept(subscriber.database) == model(subscriber.database) == truth
    groups = verify(settings(subscriber.database)).groups
    assert {(group.ispb, group.key_type): (group.vsync.hex(), group.size) for group in groups} == truth
    assert all(group.agrees for group in groups)

    before = feed(publisher.database)
    async with Application(settings(subscriber.database)):
        execute(subscriber.database, FILL.format(FIRST + 1_000, FIRST + 1_100))
        await until(lambda: feed(subscriber.database) != before)
        execute(subscriber.database, "DELETE FROM vsync.cids WHERE key_value = lpad(%s::text, 11, '0')", FIRST)
    execute(subscriber.database, "SELECT vsync.fold_cid_totals()")
    assert kept(subscriber.database) == model(subscriber.database)
    # What was kept over there was made anew: the ids of its transactions are those of others here.
    query = "SELECT FROM vsync.cid_totals WHERE NOT vsync.is_of_this_cluster(xmin, transaction_id)"
    assert rows(subscriber.database, query) == []


@pytest.mark.parametrize("continued", [True, False])
async def test_what_befell_a_cid_first_is_known_also_when_the_switch_came_between(
    agent: Agent, publisher: Site, subscriber: Site, continued: bool
) -> None:
    copy_schema(agent, publisher, subscriber)
    comes_back = FILL.format(FIRST, FIRST)
    async with subscribed(publisher, subscriber, "FOR TABLES IN SCHEMA vsync"):
        [clock] = rows(publisher.database, "SELECT clock_timestamp() AS now")
        execute(publisher.database, "DELETE FROM vsync.cids WHERE key_value = lpad(%s::text, 11, '0')", FIRST)
    if continued:
        execute(subscriber.database, CONTINUE)
        execute(subscriber.database, comes_back)
    async with (
        Application(settings(subscriber.database)) as application,
        grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel,
    ):
        if not continued:
            await until(lambda: is_ours(subscriber.database))
            execute(subscriber.database, comes_back)
        # The directory has never had it: it was here when the file was made, and is here now.
        cid = sha256(b"%d" % FIRST).digest()
        here = rows(subscriber.database, "SELECT cid FROM vsync.cids WHERE ispb = '00000000' AND cid <> %s", cid)
        requests = diff_requests([row["cid"] for row in here], ispb="00000000", since=timestamp(clock["now"]))
        found, summary = await diff(reconciliation_pb2_grpc.ReconciliationServiceStub(channel), requests)
    assert found[pb.DIFF_KIND_MISSING_THERE] == [cid]
    assert summary.added_since == 0


async def test_with_cids_alone_verify_says_so_and_a_rebuild_mends_it(publisher: Site, subscriber: Site) -> None:
    migrate(subscriber.database)
    execute(publisher.database, FILL.format(FIRST, FIRST + 300))
    async with subscribed(publisher, subscriber, "FOR TABLE vsync.cids"):
        await until(lambda: copied(subscriber.database), seconds=60)
        execute(publisher.database, FILL.format(FIRST + 1_000, FIRST + 1_100))
        execute(publisher.database, "DELETE FROM vsync.cids WHERE key_value < lpad(%s::text, 11, '0')", FIRST + 20)
        execute(publisher.database, "UPDATE vsync.cids SET sync_status = 2, synced_at = now() WHERE ispb = '00000001'")
    assert model(subscriber.database) == model(publisher.database)
    assert kept(subscriber.database) == {}
    assert [group.agrees for group in verify(settings(subscriber.database)).groups] == [False] * 3
    assert rebuild(settings(subscriber.database)) == 3
    assert verify(settings(subscriber.database)).agrees
    assert kept(subscriber.database) == model(publisher.database)


def folds(database: Database) -> int:
    """How many there were."""
    number: int = rows(database, "SELECT max(number) AS number FROM vsync.cid_folds")[0]["number"]
    return number


def is_ours(database: Database) -> bool:
    """Whether there was a fold in this cluster."""
    ours: bool = rows(database, "SELECT is_ours FROM vsync.last_fold")[0]["is_ours"]
    return ours


def feed(database: Database) -> object:
    """What tokens of its events carry."""
    return rows(database, "SELECT feed_id FROM vsync.last_fold")[0]["feed_id"]
