"""PgBouncer in transaction mode: each transaction may use another connection to the server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import vsync
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import cid_pb2_grpc
from vsyncd.app import Application

from tests.harness.cids import Stub, a_record, a_request_id, create, rows, some_records, stored
from tests.harness.clusters import Database
from tests.harness.pgbouncer import CONNECTIONS, PgBouncer, pgbouncer
from tests.harness.private_servers import PrivateServer
from tests.harness.recovery import FaultReport
from tests.integration.domains.sync_batches.batches import Batches, cids_of
from tests.resilience.conftest import at_baseline, load, patient, settings_of

pytestmark = pytest.mark.soak


@pytest.fixture
def bouncer(server: PrivateServer) -> Iterator[PgBouncer]:
    """A PgBouncer in front of the worker's server."""
    with pgbouncer(server) as bouncer:
        yield bouncer


@pytest.fixture
async def application(database: Database, bouncer: PgBouncer, overrides: dict[str, Any]) -> AsyncIterator[Application]:
    """A vsyncd behind PgBouncer, configured as in the runbook."""
    given = {"db_prepare_statements": bouncer.prepares} | overrides
    async with Application(settings_of(bouncer.url(database), **given)) as application:
        yield application


@pytest.fixture
async def channel(application: Application) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to vsyncd."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        yield channel


@pytest.fixture
def cids(channel: grpc.aio.Channel) -> Stub:
    """A stub of CidService."""
    stub: Stub = cid_pb2_grpc.CidServiceStub(channel)
    return stub


@patient
async def test_concurrent_writes_and_reads_share_few_connections(
    application: Application, cids: Stub, database: Database, report: FaultReport
) -> None:
    async with load(cids, deadline=30) as writes:
        await writes.progress(1000)
        known = writes.writes[0].cids[0]
        for _ in range(50):
            assert (await cids.GetCid(pb.GetCidRequest(cid=known))).record.cid == known
            assert (await cids.CountCids(pb.CountCidsRequest())).total
            assert (await cids.ListCids(pb.ListCidsRequest(page_size=10))).records
    assert len(backends(database)) <= CONNECTIONS
    report.figure("backends", len(backends(database)))
    writes.check(database, allowed=())
    await at_baseline(application)


def backends(database: Database) -> list[Any]:
    """Returns the service's connections to the server."""
    return rows(database, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename <> 'vsync'")


@patient
async def test_a_request_id_takes_effect_once(cids: Stub, database: Database) -> None:
    requests = [pb.CreateCidRequest(record=a_record(number), request_id=a_request_id()) for number in range(20)]
    answers = await asyncio.gather(*(cids.CreateCid(request) for request in requests for _ in range(3)))
    assert {answer.record.id for answer in answers} == {
        row["id"] for row in rows(database, "SELECT id::text FROM vsync.cids")
    }
    assert rows(database, "SELECT count(*) AS n FROM vsync.audit_logs")[0]["n"] == len(requests)


@patient
async def test_imports_and_exports_work(application: Application, database: Database) -> None:
    records = some_records(5000)
    async with vsync.connect(f"127.0.0.1:{application.port}") as client:
        async for progress in client.import_records(records, vsync.ImportOptions(chunk_size=500)):
            assert progress.streams == 1
        exported = [record.cid async for message in client.export(pb.ExportCidsRequest()) for record in message.records]
    assert len(stored(database)) == len(records)
    assert sorted(exported) == sorted(record.cid for record in records)


@patient
async def test_a_batch_is_synchronised_by_several_workers(channel: grpc.aio.Channel, cids: Stub) -> None:
    """Starting, claiming and reporting use advisory locks of their transactions."""
    await create(cids, range(300))
    batches = Batches(channel)
    batch = await batches.running()

    async def work(worker: str) -> int:
        done = 0
        while (claim := await batches.claim(batch, 25, worker=worker)).records:
            done += len(await batches.report(claim.claim_token, cids_of(claim)))
        return done

    assert sum(await asyncio.gather(*(work(f"worker-{number}") for number in range(6)))) == 300
    assert (await batches.complete(batch)).synced_records == 300


async def test_a_restart_of_the_pooler_loses_and_duplicates_no_write(
    application: Application, cids: Stub, database: Database, bouncer: PgBouncer, report: FaultReport
) -> None:
    async with load(cids) as writes:
        await asyncio.to_thread(bouncer.stop)
        await asyncio.to_thread(bouncer.start)
        report.recovered(await writes.progress(100), writes.errors)
    writes.check(database)
    await at_baseline(application)


async def test_a_restart_of_the_server_behind_the_pooler_loses_and_duplicates_no_write(
    application: Application, cids: Stub, database: Database, server: PrivateServer, report: FaultReport
) -> None:
    async with load(cids) as writes:
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(2)
        await asyncio.to_thread(server.start)
        report.recovered(await writes.progress(100), writes.errors)
    writes.check(database)
    await at_baseline(application)
