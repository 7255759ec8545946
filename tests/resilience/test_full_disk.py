"""A full disk of the database: writes are refused, reads continue, and free space is enough to recover."""

import asyncio
from collections.abc import Iterator

import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import Stub, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import Agent, PrivateServer
from tests.harness.recorded_writes import TRANSIENT_ERRORS
from tests.harness.recovery import FaultReport
from tests.harness.small_disk import SmallDisk, small_disk
from tests.resilience.conftest import PATIENT, at_baseline, cids_of, load, make_database, proxy_url, settings_of

pytestmark = pytest.mark.soak

FULL = "UNAVAILABLE STORAGE_FULL"


@pytest.fixture
def disk(agent: Agent) -> Iterator[SmallDisk]:
    """A small disk for a part of a cluster."""
    agent.run("true")  # it has changed the owner of its folder by then
    with small_disk(agent.folder / "disk", megabytes=96) as disk:
        yield disk


@pytest.fixture
def server_with_small_tables(agent: Agent, disk: SmallDisk) -> Iterator[tuple[PrivateServer, Database]]:
    """A server whose tables are on the small disk, and whose WAL is not."""
    server = PrivateServer.fresh(agent, "full-tables")
    server.start()
    agent.run("mkdir", str(disk.path / "tables"))
    server.execute(f"CREATE TABLESPACE small LOCATION '{disk.path / 'tables'}'")
    yield server, make_database(server, "full", tablespace="small")
    server.remove()


@pytest.fixture
def server_with_small_wal(agent: Agent, disk: SmallDisk) -> Iterator[tuple[PrivateServer, Database]]:
    """A server whose WAL is on the small disk, in small segments, so that it soon needs another one."""
    server = PrivateServer.fresh(agent, "full-log", "--waldir", str(disk.path / "log"), "--wal-segsize", "1")
    server.start(min_wal_size="2MB", max_wal_size="8MB")
    yield server, make_database(server, "full")
    server.remove()


async def test_with_full_tables_writes_are_refused_and_reads_continue_until_space_is_freed(
    disk: SmallDisk, server_with_small_tables: tuple[PrivateServer, Database], report: FaultReport
) -> None:
    server, database = server_with_small_tables
    async with (
        FaultProxy(server.socket) as proxy,
        Application(settings_of(proxy_url(database, proxy.port), **PATIENT)) as application,
        cids_of(application) as cids,
    ):
        async with load(cids, deadline=30) as writes:
            await asyncio.to_thread(disk.fill, leave_bytes=256 * 1024)
            await until(lambda: writes.errors[FULL] > 50)
            await reads_succeed(cids, writes.writes[0].cids[0])
            assert application.database.primary.breaker.closed
            disk.free()
            report.recovered(await writes.progress(50), writes.errors)
        writes.check(database, allowed={FULL})
        assert application.database.primary.breaker.trips == 0
        await at_baseline(application)


async def reads_succeed(cids: Stub, cid: str) -> None:
    """Every kind of read succeeds repeatedly."""
    for _ in range(10):
        assert (await cids.GetCid(pb.GetCidRequest(cid=cid))).record.cid == cid
        assert (await cids.CountCids(pb.CountCidsRequest())).total > 0
        assert (await cids.ListCids(pb.ListCidsRequest())).records


async def test_a_server_that_cannot_write_its_wal_stops_and_starts_after_space_is_freed(
    disk: SmallDisk, server_with_small_wal: tuple[PrivateServer, Database], report: FaultReport
) -> None:
    server, database = server_with_small_wal
    async with (
        FaultProxy(server.socket) as proxy,
        Application(settings_of(proxy_url(database, proxy.port))) as application,
        cids_of(application) as cids,
    ):
        async with load(cids) as writes:
            await asyncio.to_thread(disk.fill)
            await until(lambda: not server.running, seconds=60)
            await until(lambda: not application.database.primary.breaker.closed)
            disk.free()
            await asyncio.to_thread(server.start)
            report.recovered(await writes.progress(50), writes.errors)
        writes.check(database, allowed=TRANSIENT_ERRORS | {FULL})
        await at_baseline(application)
