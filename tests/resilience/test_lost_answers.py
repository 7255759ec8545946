"""Connections to the database that are cut before or after a statement is executed."""

import asyncio

import grpc
import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import Stub, a_record, a_request_id, failure_of, info_of, rows
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.resilience.conftest import at_baseline, patient

pytestmark = patient


def effects(database: Database) -> tuple[int, int, int]:
    """Returns the number of records, audit entries and events."""
    (row,) = rows(
        database,
        "SELECT (SELECT count(*) FROM vsync.cids) AS c, (SELECT count(*) FROM vsync.audit_logs) AS a,"
        " (SELECT count(*) FROM vsync.cid_events) AS e",
    )
    return row["c"], row["a"], row["e"]


@pytest.mark.parametrize(
    "text", ["BEGIN", "json_to_recordset", pytest.param("request_ids", marks=pytest.mark.soak), "COMMIT"]
)
@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
async def test_a_batch_whose_connection_is_cut_takes_effect_once(
    cids: Stub, database: Database, proxy: FaultProxy, text: str, *, answered: bool
) -> None:
    """The connection is cut before the server gets the statement, or when it answers."""
    await cids.CountCids(pb.CountCidsRequest())
    after = b"json_to_recordset" if text == "COMMIT" else b""  # not the commit of a job
    (proxy.cut_answer_to if answered else proxy.cut_before)(text.encode(), after=after)
    request = pb.BatchCreateCidsRequest(records=[a_record(1), a_record(2)], request_id=a_request_id())
    response = await cids.BatchCreateCids(request)
    assert proxy.cuts == 1
    assert effects(database) == (2, 1, 2)
    assert list((await cids.BatchCreateCids(request)).records) == list(response.records)
    assert effects(database) == (2, 1, 2)


async def test_without_a_request_id_an_unknown_commit_is_reported(
    cids: Stub, database: Database, proxy: FaultProxy
) -> None:
    await cids.CountCids(pb.CountCidsRequest())
    proxy.cut_answer_to(b"COMMIT", after=b"json_to_recordset")
    error = await failure_of(cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=[a_record(1)])))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNKNOWN, "COMMIT_UNKNOWN")
    assert effects(database) == (1, 1, 1)


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
async def test_batched_creations_whose_connection_is_cut_take_effect_once(
    cids: Stub, database: Database, proxy: FaultProxy, application: Application, answered: bool
) -> None:
    await cids.CountCids(pb.CountCidsRequest())
    (proxy.cut_answer_to if answered else proxy.cut_before)(b"json_to_recordset")
    requests = [pb.CreateCidRequest(record=a_record(n), request_id=a_request_id()) for n in range(30)]
    answers = await asyncio.gather(*map(cids.CreateCid, requests))
    assert proxy.cuts == 1
    assert effects(database) == (30, 30, 30)
    assert await asyncio.gather(*map(cids.CreateCid, requests)) == answers
    assert effects(database) == (30, 30, 30)
    await at_baseline(application)
