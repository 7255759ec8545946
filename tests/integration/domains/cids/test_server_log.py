"""Ordinary calls write no keys into the log of PostgreSQL, whatever its log settings."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import cid_pb2_grpc
from vsyncd.app import Application
from vsyncd.embedded import EmbeddedPostgres

from tests.harness.cids import a_record, a_request_id, cid_of, failure_of, info_of, messages, some_records, until
from tests.harness.logs import captured_logs
from tests.harness.serving import settings_for

VERBOSE = {"fsync": "off", "log_error_verbosity": "verbose", "log_min_error_statement": "error"}


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL server that logs details of errors."""
    async with EmbeddedPostgres(folder / "data", settings=VERBOSE) as server:
        yield server


async def test_no_key_is_written_to_a_verbose_server_log(server: EmbeddedPostgres) -> None:
    records = some_records(20, 7000)
    settings = settings_for(server.conninfo, http_listen="127.0.0.1:0")
    with captured_logs() as log:
        async with Application(settings) as application:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
                cids = cid_pb2_grpc.CidServiceStub(channel)
                for on_conflict in (pb.ON_CONFLICT_FAIL, pb.ON_CONFLICT_SKIP, pb.ON_CONFLICT_REPLACE):
                    chunks = [(1, records[:10]), (2, records[10:])]
                    async for answer in cids.ImportCids(messages(a_request_id(), on_conflict, chunks)):
                        assert not answer.rejected
                for same in (records[0], a_record(99, cid=cid_of(7000)), a_record(7000, cid=cid_of(99))):
                    error = await failure_of(cids.CreateCid(pb.CreateCidRequest(record=same)))
                    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
                    error = await failure_of(cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=[same])))
                    assert info_of(error).reason in {"CID_EXISTS", "KEY_EXISTS"}
            await until(lambda: bool(log.named("PostgreSQL may write keys into its log")))
    written = (server.data_dir / "postgres.log").read_text()
    assert not [record.key_value for record in records if record.key_value in written]
