"""The response to a COMMIT is lost: with a request_id the call still succeeds."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.config import Settings

from tests.harness.cids import Stub, a_record, a_request_id, cid_of, failure_of, info_of, messages, some_records, stored
from tests.harness.clusters import Database
from tests.harness.cutting_proxy import CuttingProxy, cutting_proxy
from tests.harness.serving import settings_for


@pytest.fixture
def proxy(database: Database) -> Iterator[CuttingProxy]:
    """A proxy to the database that cuts connections."""
    with cutting_proxy(database) as proxy:
        yield proxy


@pytest.fixture
def settings(proxy: CuttingProxy) -> Settings:
    """Settings of a vsyncd that connects through the proxy."""
    return settings_for(proxy.url, db_auto_migrate=False, http_listen="127.0.0.1:0", shutdown_grace=1)


def request_of(method: str, request_id: str) -> Any:
    """Returns a request of the method."""
    return {
        "CreateCid": pb.CreateCidRequest(record=a_record(1), request_id=request_id),
        "BatchCreateCids": pb.BatchCreateCidsRequest(records=[a_record(1)], request_id=request_id),
    }[method]


INSERT = b"json_to_recordset"
LAST_STATEMENT = pytest.mark.parametrize(
    ("method", "last_statement"), [("CreateCid", INSERT), ("BatchCreateCids", b"COMMIT")]
)


@LAST_STATEMENT
async def test_with_a_request_id_the_response_is_that_of_the_committed_mutation(
    cids: Stub, database: Database, proxy: CuttingProxy, method: str, last_statement: bytes
) -> None:
    proxy.cut_after(last_statement, after=INSERT)
    answer = await getattr(cids, method)(request_of(method, a_request_id()))
    assert proxy.cuts == 1
    assert set(stored(database)) == {cid_of(1)}
    record = answer.record if method == "CreateCid" else answer.records[0]
    assert (await cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))).record == record


@LAST_STATEMENT
async def test_without_a_request_id_the_outcome_is_unknown(
    cids: Stub, proxy: CuttingProxy, method: str, last_statement: bytes
) -> None:
    proxy.cut_after(last_statement, after=INSERT)
    error = await failure_of(getattr(cids, method)(request_of(method, "")))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNKNOWN, "COMMIT_UNKNOWN")


async def test_a_chunk_whose_commit_was_lost_is_imported_once(
    cids: Stub, database: Database, proxy: CuttingProxy
) -> None:
    call = cids.ImportCids(messages(a_request_id(), 1, [(n, some_records(5, 10 * n)) for n in (1, 2, 3)]))
    numbers = []
    async for answer in call:
        numbers.append(answer.number)
        if answer.number == 1:
            proxy.cut_after(b"COMMIT", after=b"COPY ")
    assert numbers == [0, 1, 2, 3]
    assert answer.totals.inserted == 15
    assert proxy.cuts == 1
    assert len(stored(database)) == 15
