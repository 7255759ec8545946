"""Logical replication to another server, and the switch to it. It does not fire the triggers that maintain VSyncs.

If every table is published, the VSyncs are replicated. If only `cids` is, verify detects it and rebuild repairs it.
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
# Advances transaction ids: two clusters that are minutes old would otherwise have similar ones.
ADVANCE_XIDS = """
    DO $$ BEGIN
        WHILE pg_current_xact_id() < '{}'::xid8 LOOP COMMIT; END LOOP;
    END $$
"""
# From the runbook: replication copies rows, but not the state of sequences.
ADVANCE_SEQUENCES = """
    SELECT setval(pg_get_serial_sequence('vsync.cid_events', 'seq'), max(seq)) FROM vsync.cid_events;
    SELECT setval(pg_get_serial_sequence('vsync.cid_totals', 'seq'), max(seq)) FROM vsync.cid_totals;
    SELECT setval(pg_get_serial_sequence('vsync.cid_folds', 'number'), max(number)) FROM vsync.cid_folds;
"""
# Not among the numbers that RecordedWrites uses.
FIRST = 900_000


class Site(NamedTuple):
    """A database and its server."""

    server: PrivateServer
    database: Database

    def execute(self, statement: str) -> None:
        """Executes a statement as the superuser, outside a transaction."""
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
    """Returns vsyncd's settings for a database."""
    return settings_of(database.service_url, db_migrate_url=database.owner_url)


def copy_schema(agent: Agent, publisher: Site, subscriber: Site) -> None:
    """Copies the schema to the subscriber, after advancing the publisher's transaction ids."""
    [current] = rows(subscriber.database, "SELECT pg_current_xact_id()::text::bigint AS id")
    publisher.execute(ADVANCE_XIDS.format(current["id"] + 5_000))
    execute(publisher.database, FILL.format(FIRST, FIRST + 300))
    schema = str(agent.folder / f"{subscriber.database.name}.sql")
    agent.run("pg_dump", "--schema-only", "-f", schema, "-d", publisher.database.admin)
    agent.run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", schema, "-d", subscriber.database.admin)


@contextlib.asynccontextmanager
async def subscribed(publisher: Site, subscriber: Site, published: str) -> AsyncIterator[None]:
    """Replicates until the end of the block, when writing must have ended. Then waits for the rest and unsubscribes."""
    source = publisher.server.admin(publisher.database.name)
    publisher.execute(f"CREATE PUBLICATION vsyncd {published}")
    subscriber.execute(f"CREATE SUBSCRIPTION vsyncd CONNECTION '{source}' PUBLICATION vsyncd")
    try:
        yield
        await until(lambda: copied(subscriber.database), seconds=60)
        [end] = rows(publisher.database, "SELECT pg_current_wal_lsn() AS lsn")
        await until(lambda: confirmed(publisher.database, end["lsn"]), seconds=60)
    finally:
        await asyncio.to_thread(subscriber.execute, "DROP SUBSCRIPTION vsyncd")


def copied(subscriber: Database) -> bool:
    """Whether every table is copied and replicated."""
    ready: bool = rows(subscriber, "SELECT bool_and(srsubstate = 'r') AS ready FROM pg_subscription_rel")[0]["ready"]
    return ready


def confirmed(publisher: Database, end: str) -> bool:
    """Whether the subscriber has confirmed everything up to this LSN."""
    query = "SELECT confirmed_flush_lsn >= %s::pg_lsn AS done FROM pg_replication_slots WHERE slot_name = 'vsyncd'"
    done: bool = rows(publisher, query, end)[0]["done"]
    return done


@pytest.mark.soak
async def test_with_every_table_published_the_vsyncs_are_correct_after_the_switch(
    agent: Agent, publisher: Site, subscriber: Site
) -> None:
    copy_schema(agent, publisher, subscriber)
    async with (
        subscribed(publisher, subscriber, "FOR TABLES IN SCHEMA vsync"),
        Application(settings(publisher.database)) as application,
        cids_of(application) as cids,
    ):
        writes = RecordedWrites(cids)
        async with writes.running(8):
            await writes.progress(100)
            # Folds delete rows, which is replicated as well.
            await until(lambda: folds(publisher.database) > 2)
            await writes.progress(50)

    execute(subscriber.database, ADVANCE_SEQUENCES)
    truth = model(publisher.database)
    assert kept(subscriber.database) == model(subscriber.database) == truth
    groups = verify(settings(subscriber.database)).groups
    assert {(group.ispb, group.key_type): (group.vsync.hex(), group.size) for group in groups} == truth
    assert all(group.agrees for group in groups)

    before = feed_id(publisher.database)
    async with Application(settings(subscriber.database)):
        execute(subscriber.database, FILL.format(FIRST + 1_000, FIRST + 1_100))
        await until(lambda: feed_id(subscriber.database) != before)
        execute(subscriber.database, "DELETE FROM vsync.cids WHERE key_value = lpad(%s::text, 11, '0')", FIRST)
    execute(subscriber.database, "SELECT vsync.fold_cid_totals()")
    assert kept(subscriber.database) == model(subscriber.database)
    # The replicated totals were rewritten: their transaction ids belong to other transactions here.
    query = "SELECT FROM vsync.cid_totals WHERE NOT vsync.is_of_this_cluster(xmin, transaction_id)"
    assert rows(subscriber.database, query) == []


@pytest.mark.soak
@pytest.mark.parametrize("sequences_advanced", [True, False])
async def test_the_first_event_of_a_cid_is_known_across_the_switch(
    agent: Agent, publisher: Site, subscriber: Site, sequences_advanced: bool
) -> None:
    copy_schema(agent, publisher, subscriber)
    recreate = FILL.format(FIRST, FIRST)
    async with subscribed(publisher, subscriber, "FOR TABLES IN SCHEMA vsync"):
        [clock] = rows(publisher.database, "SELECT clock_timestamp() AS now")
        execute(publisher.database, "DELETE FROM vsync.cids WHERE key_value = lpad(%s::text, 11, '0')", FIRST)
    if sequences_advanced:
        execute(subscriber.database, ADVANCE_SEQUENCES)
        execute(subscriber.database, recreate)
    async with (
        Application(settings(subscriber.database)) as application,
        grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel,
    ):
        if not sequences_advanced:
            await until(lambda: is_ours(subscriber.database))
            execute(subscriber.database, recreate)
        # The directory never had this CID. It was present when the file was made, and is present now.
        cid = sha256(b"%d" % FIRST).digest()
        other_cids = rows(subscriber.database, "SELECT cid FROM vsync.cids WHERE ispb = '00000000' AND cid <> %s", cid)
        requests = diff_requests([row["cid"] for row in other_cids], ispb="00000000", since=timestamp(clock["now"]))
        found, summary = await diff(reconciliation_pb2_grpc.ReconciliationServiceStub(channel), requests)
    assert found[pb.DIFF_KIND_MISSING_THERE] == [cid]
    assert summary.added_since == 0


async def test_with_only_cids_published_verify_detects_and_rebuild_repairs_the_vsyncs(
    publisher: Site, subscriber: Site
) -> None:
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
    """Returns the number of folds."""
    number: int = rows(database, "SELECT max(number) AS number FROM vsync.cid_folds")[0]["number"]
    return number


def is_ours(database: Database) -> bool:
    """Whether the last fold was executed in this cluster."""
    ours: bool = rows(database, "SELECT is_ours FROM vsync.last_fold")[0]["is_ours"]
    return ours


def feed_id(database: Database) -> object:
    """Returns the feed id, which event tokens contain."""
    return rows(database, "SELECT feed_id FROM vsync.last_fold")[0]["feed_id"]
