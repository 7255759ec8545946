"""The client against the real server, which is restarted and killed meanwhile."""

import asyncio
import uuid
from collections.abc import Iterator
from itertools import islice

import pytest
import vsync
from vsync.sample import entries
from vsync.v1 import audit_pb2, cid_pb2
from vsyncd.app import Application
from vsyncd.config import Settings

from tests.harness.processes import START_SECONDS, ServerProcess

NO_CID = "0" * 64
# Seconds. As long as a server may take to start.
TIMEOUT_S = START_SECONDS


async def test_both_clients_read_records_of_the_other(application: Application) -> None:
    first, second = entries(2)
    async with vsync.connect(f"127.0.0.1:{application.port}") as client:
        created = (await client.cids.CreateCid(cid_pb2.CreateCidRequest(record=first))).record
        assert created.revision == 1

        def read_and_write() -> cid_pb2.CidRecord:
            with vsync.connect_sync(f"127.0.0.1:{application.port}") as sync_client:
                found = sync_client.cids.GetCid(cid_pb2.GetCidRequest(cid=first.cid)).record
                sync_client.cids.CreateCid(cid_pb2.CreateCidRequest(record=second))
                return found

        assert await asyncio.to_thread(read_and_write) == created
        found = await client.cids.BatchGetCids(cid_pb2.BatchGetCidsRequest(cids=[first.cid, second.cid, NO_CID]))
        assert [record.cid for record in found.records] == [first.cid, second.cid]
        assert list(found.missing) == [NO_CID]


async def test_errors_of_the_server_are_typed(application: Application) -> None:
    (record,) = entries(1)
    async with vsync.connect(f"127.0.0.1:{application.port}") as client:
        with pytest.raises(vsync.NotFoundError) as not_found:
            await client.cids.GetCid(cid_pb2.GetCidRequest(cid=NO_CID))
        assert not_found.value.reason == "CID_NOT_FOUND"
        with pytest.raises(vsync.InvalidArgumentError) as invalid:
            await client.cids.CreateCid(cid_pb2.CreateCidRequest(record=cid_pb2.CidRecord(cid="zz", ispb="1")))
        assert {"record.cid", "record.ispb"} <= {violation.field for violation in invalid.value.violations}
        created = (await client.cids.CreateCid(cid_pb2.CreateCidRequest(record=record))).record
        with pytest.raises(vsync.AlreadyExistsError) as exists:
            await client.cids.CreateCid(cid_pb2.CreateCidRequest(record=record))
        assert (exists.value.existing_id, exists.value.revision) == (created.id, 1)
        request_id = str(uuid.uuid4())
        deletion = cid_pb2.DeleteCidRequest(cid=record.cid, revision=7, request_id=request_id)
        with pytest.raises(vsync.RevisionMismatchError):
            await client.cids.DeleteCid(deletion)


async def test_the_correlation_id_of_a_block_is_in_the_audit_trail(application: Application) -> None:
    (record,) = entries(1)
    async with vsync.connect(f"127.0.0.1:{application.port}") as client:
        with vsync.correlation() as correlation_id:
            await client.cids.CreateCid(cid_pb2.CreateCidRequest(record=record))
        logs = await client.audit.ListAuditLogs(audit_pb2.ListAuditLogsRequest(correlation_id=correlation_id))
        assert [log.cid for log in logs.logs] == [record.cid]


async def test_calls_succeed_across_a_restart(settings: Settings) -> None:
    records = list(entries(2))
    async with Application(settings) as before:
        target = f"127.0.0.1:{before.port}"
        client = vsync.connect(target)
        await client.cids.CreateCid(cid_pb2.CreateCidRequest(record=records[0]))
    async with client:
        call = asyncio.ensure_future(client.cids.CreateCid(cid_pb2.CreateCidRequest(record=records[1])))
        async with Application(settings.model_copy(update={"grpc_listen": target})):
            assert (await call).record.cid == records[1].cid


class Cut:
    """Kills the server after this number of records was read, and starts it again."""

    def __init__(self, server: ServerProcess, *, after: int) -> None:
        self._server, self._after = server, after

    def through(self, records: Iterator[cid_pb2.CidRecord]) -> Iterator[cid_pb2.CidRecord]:
        yield from islice(records, self._after)
        self._server.kill()
        self._server.start()
        yield from records


def count(client: vsync.SyncClient) -> int:
    return client.cids.CountCids(cid_pb2.CountCidsRequest()).total


@pytest.mark.soak
def test_an_import_survives_kill_9(server: ServerProcess) -> None:
    with vsync.connect_sync(server.target) as client:
        options = vsync.ImportOptions(chunk_size=100, on_conflict=cid_pb2.ON_CONFLICT_FAIL, reconnect_timeout=TIMEOUT_S)
        *_, last = client.import_records(Cut(server, after=2500).through(entries(5000)), options)
        assert (last.records, last.inserted, last.rejected) == (5000, 5000, 0)
        assert last.streams > 1
        assert count(client) == 5000


@pytest.mark.soak
async def test_an_import_survives_kill_9_on_asyncio(server: ServerProcess) -> None:
    async with vsync.connect(server.target) as client:
        options = vsync.ImportOptions(chunk_size=100, on_conflict=cid_pb2.ON_CONFLICT_FAIL, reconnect_timeout=TIMEOUT_S)
        records = Cut(server, after=2500).through(entries(5000))
        *_, last = [progress async for progress in client.import_records(records, options)]
        assert (last.inserted, last.number) == (5000, 50)
        assert last.streams > 1


@pytest.mark.soak
def test_an_export_survives_kill_9_and_yields_each_record_once(server: ServerProcess) -> None:
    with vsync.connect_sync(server.target) as client:
        list(client.import_records(entries(12_000)))
        expected = {record.cid for record in entries(12_000)}
        messages = client.export(cid_pb2.ExportCidsRequest())
        received = [record.cid for record in next(messages).records]
        server.kill()
        server.start()
        received += [record.cid for message in messages for record in message.records]
        assert len(received) == 12_000
        assert set(received) == expected
