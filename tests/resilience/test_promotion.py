"""Failover from the primary to its replica: vsyncd has both hosts and continues without a restart.

With synchronous replication no acknowledged write is lost. With asynchronous replication, writes that the replica had
not received are lost completely, and no write takes effect twice.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from vsync.health.v1 import health_pb2 as health
from vsync.health.v1 import health_pb2_grpc as health_grpc
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import a_record, a_request_id, create, failure_of, info_of, messages, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import Agent, PrivateServer
from tests.harness.recovery import FaultReport
from tests.resilience.conftest import (
    PATIENT,
    at_baseline,
    caught_up,
    cids_of,
    describe,
    load,
    make_database,
    monitored,
    proxy_url,
    settings_of,
)


class Pair:
    """A primary and a replica."""

    def __init__(self, first: PrivateServer, second: PrivateServer, database: Database) -> None:
        self.first = first
        self.second = second
        self.database = database

    def follow(self, port: int) -> None:
        """Starts the replica, which connects to the primary through a proxy on this port."""
        source = f"host=127.0.0.1 port={port} user=vsync sslmode=disable application_name=second"
        self.second.start(primary_conninfo=source)
        caught_up(self.first, self.second)

    def replicate_synchronously(self) -> None:
        """Makes each commit on the primary wait for the replica."""
        self.first.execute("ALTER SYSTEM SET synchronous_standby_names = 'second'")
        self.first.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 60
        while self.first.execute("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def records(self, server: PrivateServer) -> int:
        """Returns the number of CIDs on one of the servers."""
        ((count,),) = server.execute("SELECT count(*) FROM vsync.cids", self.database.name)
        return int(count)

    def fail_over(self) -> None:
        """Kills the primary and promotes the replica."""
        self.first.stop(signal.SIGKILL)
        self.second.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        self.second.execute("SELECT pg_reload_conf()")
        self.second.execute("SELECT pg_promote()")


@pytest.fixture
def pair(agent: Agent) -> Iterator[Pair]:
    """A migrated primary, and a replica that is not running yet."""
    first = PrivateServer.fresh(agent, "first")
    first.start()
    database = make_database(first, "promoted")
    pair = Pair(first, first.replicate("second"), database)
    yield pair
    for server in (pair.first, pair.second):
        server.remove()


@contextlib.asynccontextmanager
async def served(pair: Pair, **overrides: Any) -> AsyncIterator[tuple[Application, FaultProxy]]:
    """A vsyncd with both hosts, and the proxy between the two servers."""
    async with hosts(pair) as (one, two, between):
        url = proxy_url(pair.database, one.port, two.port)
        async with Application(settings_of(url, **overrides)) as application:
            yield application, between


@contextlib.asynccontextmanager
async def hosts(pair: Pair) -> AsyncIterator[tuple[FaultProxy, FaultProxy, FaultProxy]]:
    """Proxies in front of the primary, in front of its replica, and between the two."""
    async with (
        FaultProxy(pair.first.socket) as between,
        FaultProxy(pair.first.socket) as one,
        FaultProxy(pair.second.socket) as two,
    ):
        await asyncio.to_thread(pair.follow, between.port)
        yield one, two, between


async def test_after_a_synchronous_promotion_nothing_is_lost(pair: Pair, report: FaultReport) -> None:
    async with served(pair) as (application, _), cids_of(application) as cids:
        await asyncio.to_thread(pair.replicate_synchronously)
        async with load(cids) as writes:
            await asyncio.to_thread(pair.fail_over)
            report.recovered(await writes.progress(50), writes.errors)
        assert writes.check(describe(pair.second, pair.database.name)) == 0
        await at_baseline(application)


@pytest.mark.soak
async def test_health_recovers_after_a_failover_although_the_old_host_is_a_black_hole(pair: Pair) -> None:
    """The old machine is gone, so that connection attempts get no answer."""
    async with hosts(pair) as (one, two, _):
        settings = settings_of(proxy_url(pair.database, one.port, two.port), health_check_timeout=0.4)
        async with Application(settings) as application, cids_of(application) as cids:
            async with load(cids) as writes:
                one.hang()
                await asyncio.to_thread(pair.fail_over)
                await writes.progress(50)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel, asyncio.timeout(60):
                stub = health_grpc.HealthStub(channel)
                while (await stub.GetHealth(health.HealthRequest())).status != health.HEALTHY:  # noqa: ASYNC110  no event
                    await asyncio.sleep(0.1)
            writes.check(describe(pair.second, pair.database.name), may_lose=True)


async def test_a_write_that_the_standby_lacks_is_not_acknowledged_on_any_retry(pair: Pair) -> None:
    """A deadline ends the wait for the standby, but not the transaction, which a failover may lose."""
    async with served(pair) as (application, between), cids_of(application) as cids:
        await asyncio.to_thread(pair.replicate_synchronously)
        await create(cids, [1])
        between.hang()
        single = pb.CreateCidRequest(record=a_record(2), request_id=a_request_id())
        several = pb.BatchCreateCidsRequest(records=[a_record(3)], request_id=a_request_id())
        calls = (partial(cids.CreateCid, single), partial(cids.BatchCreateCids, several))
        for _ in range(2):
            for call in calls:
                await failure_of(call(timeout=1))
            # The primary commits them after the callers are gone.
            await until(lambda: pair.records(pair.first) == 3)
        between.flow()
        for call in calls:
            await call(timeout=20)
        await asyncio.to_thread(pair.fail_over)
        assert pair.records(pair.second) == 3


async def test_a_commit_whose_wait_for_the_standby_was_interrupted_has_an_unknown_outcome(pair: Pair) -> None:
    async with served(pair, **PATIENT) as (application, between), cids_of(application) as cids:
        await asyncio.to_thread(pair.replicate_synchronously)
        import_id, chunks = a_request_id(), asyncio.Queue[pb.ImportCidsRequest]()
        imported = cids.ImportCids(_requests_from(chunks))
        *begin, second_chunk = [
            request
            async for request in messages(import_id, pb.ON_CONFLICT_FAIL, [(1, [a_record(1)]), (2, [a_record(2)])])
        ]
        for request in begin:
            await chunks.put(request)
            await imported.read()
        between.hang()
        # Only what the standby has is acknowledged, so each retried request waits again.
        reopened = cids.ImportCids(messages(import_id, pb.ON_CONFLICT_FAIL, []))
        again = asyncio.ensure_future(reopened.read())
        # The chunk's transaction would block the reopened import before it waits for the standby.
        await until(lambda: len(waiting_for_the_standby(pair)) == 1)
        await chunks.put(second_chunk)
        chunk = asyncio.ensure_future(imported.read())
        with_id = asyncio.ensure_future(
            cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=[a_record(3)], request_id=a_request_id()))
        )
        without_id = asyncio.ensure_future(
            failure_of(cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=[a_record(4)])))
        )
        await until(lambda: len(waiting_for_the_standby(pair)) == 4)
        first = waiting_for_the_standby(pair, "pg_cancel_backend(pid)")
        assert info_of(await without_id).reason == "COMMIT_UNKNOWN"
        await until(lambda: len(waiting_for_the_standby(pair)) == 3)
        second = waiting_for_the_standby(pair, "pg_terminate_backend(pid)")
        assert (len(first), len(second)) == (4, 3)
        await until(lambda: len(waiting_for_the_standby(pair) - second) == 3)
        assert not any(answer.done() for answer in (chunk, again, with_id))
        between.flow()
        assert (await with_id).records[0].key_value == a_record(3).key_value
        answers = await asyncio.gather(chunk, again)
        assert [answer.totals.inserted for answer in answers if isinstance(answer, pb.ImportCidsResponse)] == [2, 2]
        imported.cancel()


@pytest.mark.soak
async def test_a_replica_that_is_ahead_of_the_new_primary_receives_no_more_reads(pair: Pair) -> None:
    """The replica keeps writes that were lost, and receives no new ones."""
    third = pair.first.replicate("third")
    third.start()
    async with hosts(pair) as (one, two, between), FaultProxy(third.socket) as three:
        url = proxy_url(pair.database, one.port, two.port)
        settings = settings_of(url, db_replica_hosts=f"127.0.0.1:{three.port}", db_replica_max_lag=600)
        async with Application(settings) as application:
            router, (replica,) = application.database.router, application.database.replicas
            await until(lambda: router.is_usable(replica))
            between.hang()
            write(pair.first, 2_000_000)
            await asyncio.to_thread(caught_up, pair.first, third)
            await asyncio.to_thread(pair.first.stop, signal.SIGKILL)
            await between.refuse()
            between.flow()
            await asyncio.to_thread(pair.fail_over)
            await until(lambda: application.database.primary.breaker.closed and not router.is_usable(replica))
            # It stays unused after the new primary has written more.
            write(pair.second, 4_000_000)
            assert pair.second.execute("SELECT pg_current_wal_lsn()") > third.execute("SELECT pg_last_wal_replay_lsn()")
            await monitored(application.database.primary)
            await monitored(replica)
            assert not router.is_usable(replica)
    third.remove()


@pytest.mark.soak
async def test_a_promoted_replica_that_is_now_the_primary_receives_reads(pair: Pair) -> None:
    """A host may be configured both as a primary and as a replica."""
    async with hosts(pair) as (one, two, _):
        url = proxy_url(pair.database, one.port, two.port)
        async with Application(settings_of(url, db_replica_hosts=f"127.0.0.1:{two.port}")) as application:
            router, (replica,) = application.database.router, application.database.replicas
            primary = application.database.primary
            await until(lambda: router.is_usable(replica))
            await asyncio.to_thread(pair.fail_over)
            await until(
                lambda: bool(
                    replica.last_status
                    and primary.last_status
                    and primary.last_status.started_at == replica.last_status.started_at
                )
            )
            await monitored(primary)
            await monitored(replica)
            assert router.is_usable(replica)
            assert replica.last_status is not None
            assert not replica.last_status.in_recovery


def write(server: PrivateServer, size: int) -> None:
    """Writes this number of bytes to the WAL."""
    server.execute(f"SELECT pg_logical_emit_message(true, '', repeat('x', {size}))")


async def _requests_from(queue: "asyncio.Queue[pb.ImportCidsRequest]") -> AsyncIterator[pb.ImportCidsRequest]:
    while True:
        yield await queue.get()


def waiting_for_the_standby(pair: Pair, action: str = "true") -> set[int]:
    """Returns the backends whose COMMIT waits for the standby, after `action` was executed for each.

    Jobs may wait as well. They are excluded, since they use none of these tables.
    """
    calls = "('vsync.cids'::regclass, 'vsync.imports'::regclass, 'vsync.request_ids'::regclass)"
    waiting = (
        "FROM pg_stat_activity AS backend WHERE wait_event = 'SyncRep' AND query = 'COMMIT'"
        f" AND EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = backend.pid AND relation IN {calls})"
    )
    return {pid for pid, _ in pair.first.execute(f"SELECT pid, {action} {waiting}", pair.database.name)}


async def test_a_retried_request_on_a_standby_is_refused_as_read_only(pair: Pair) -> None:
    """The standby has the request id, but cannot wait for replication, since it cannot write."""
    async with served(pair) as (application, _), cids_of(application) as cids:
        request = pb.BatchCreateCidsRequest(records=[a_record(1)], request_id=a_request_id())
        await cids.BatchCreateCids(request)
        await asyncio.to_thread(caught_up, pair.first, pair.second)
    async with (
        FaultProxy(pair.second.socket) as two,
        Application(settings_of(proxy_url(pair.database, two.port), **PATIENT)) as application,
        cids_of(application) as cids,
    ):
        assert info_of(await failure_of(cids.BatchCreateCids(request))).reason == "READ_ONLY_MODE"


@pytest.mark.soak
@pytest.mark.parametrize("seconds_behind", [0.0, 2.0])
async def test_an_asynchronous_promotion_loses_only_writes_that_were_not_sent(
    pair: Pair, report: FaultReport, seconds_behind: float
) -> None:
    """`seconds_behind`: how long the replica has received nothing when the primary is killed."""
    async with served(pair) as (application, between), cids_of(application) as cids:
        async with load(cids) as writes:
            await writes.progress(200)
            before, began = len(writes.latencies), time.monotonic()
            await asyncio.to_thread(caught_up, pair.first, pair.second)
            if seconds_behind:
                between.hang()
            await asyncio.sleep(seconds_behind)
            await asyncio.to_thread(pair.first.stop, signal.SIGKILL)
            since = len(writes.latencies) - before
            if seconds_behind:
                report.figure("writes_per_second", round(since / (time.monotonic() - began)))
            await between.refuse()
            between.flow()
            await asyncio.to_thread(pair.fail_over)
            report.recovered(await writes.progress(50), writes.errors)
        lost = writes.check(describe(pair.second, pair.database.name), may_lose=True)
        report.figure("acknowledged_writes_lost", lost)
        report.figure("seconds_without_replication", seconds_behind)
        assert bool(lost) or not seconds_behind
        # Writes that were committed but not yet acknowledged may be lost as well: one or two for each caller.
        assert lost <= since + 32
        await at_baseline(application)
