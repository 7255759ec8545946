"""The primary dies, and its replica takes over: vsyncd knows both hosts and goes on without a restart.

With synchronous replication nothing that was acknowledged is lost. Without, what the replica had not received is gone:
wholly, and nothing takes effect twice.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from vsyncd.app import Application

from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import Agent, PrivateServer
from tests.harness.recovery import FaultReport
from tests.resilience.conftest import (
    at_baseline,
    caught_up,
    cids_of,
    describe,
    load,
    make_database,
    proxy_url,
    settings_of,
)


class Pair:
    """A primary, and a replica that follows it over `between`."""

    def __init__(self, first: PrivateServer, second: PrivateServer, database: Database) -> None:
        self.first = first
        self.second = second
        self.database = database

    def follow(self, port: int) -> None:
        """Start the replica, which reaches the primary at this port of ours."""
        source = f"host=127.0.0.1 port={port} user=vsync sslmode=disable application_name=second"
        self.second.start(primary_conninfo=source)
        caught_up(self.first, self.second)

    def fail_over(self) -> None:
        """As the power goes; the replica becomes the primary."""
        self.first.stop(signal.SIGKILL)
        self.second.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        self.second.execute("SELECT pg_reload_conf()")
        self.second.execute("SELECT pg_promote()")


@pytest.fixture
def pair(agent: Agent) -> Iterator[Pair]:
    """A migrated primary, and a replica that is not started yet."""
    first = PrivateServer.fresh(agent, "first")
    first.start()
    database = make_database(first, "promoted")
    pair = Pair(first, first.replicate("second"), database)
    yield pair
    for server in (pair.first, pair.second):
        server.remove()


@contextlib.asynccontextmanager
async def served(pair: Pair) -> AsyncIterator[tuple[Application, FaultProxy]]:
    """vsyncd over both, and what stands between the two."""
    async with (
        FaultProxy(pair.first.socket) as between,
        FaultProxy(pair.first.socket) as one,
        FaultProxy(pair.second.socket) as two,
    ):
        await asyncio.to_thread(pair.follow, between.port)
        async with Application(settings_of(proxy_url(pair.database, one.port, two.port))) as application:
            yield application, between


async def test_after_a_synchronous_promotion_nothing_is_lost(pair: Pair, report: FaultReport) -> None:
    async with served(pair) as (application, _), cids_of(application) as cids:
        await asyncio.to_thread(pair.first.execute, "ALTER SYSTEM SET synchronous_standby_names = 'second'")
        await asyncio.to_thread(pair.first.execute, "SELECT pg_reload_conf()")
        async with load(cids) as writes:
            await asyncio.to_thread(pair.fail_over)
            report.recovered(await writes.progress(50), writes.told)
        assert writes.check(describe(pair.second, pair.database.name)) == 0
        await at_baseline(application)


@pytest.mark.soak
@pytest.mark.parametrize("behind", [0.0, 2.0])
async def test_what_an_asynchronous_promotion_loses_is_what_had_not_been_sent(
    pair: Pair, report: FaultReport, behind: float
) -> None:
    """`behind`: seconds for which the replica has received nothing when the primary dies."""
    async with served(pair) as (application, between), cids_of(application) as cids:
        async with load(cids) as writes:
            await writes.progress(200)
            before, began = len(writes.latencies), time.monotonic()
            await asyncio.to_thread(caught_up, pair.first, pair.second)
            if behind:
                between.hang()
            await asyncio.sleep(behind)
            await asyncio.to_thread(pair.first.stop, signal.SIGKILL)
            since = len(writes.latencies) - before
            if behind:
                report.figure("writes_per_second", round(since / (time.monotonic() - began)))
            await between.refuse()
            between.flow()
            await asyncio.to_thread(pair.fail_over)
            report.recovered(await writes.progress(50), writes.told)
        lost = writes.check(describe(pair.second, pair.database.name), may_lose=True)
        report.figure("acknowledged_writes_lost", lost)
        report.figure("seconds_without_replication", behind)
        assert bool(lost) or not behind
        # What the replica had then, it has; what was not acknowledged yet may be lost as well: a write for each caller.
        assert lost <= since + 32
        await at_baseline(application)
