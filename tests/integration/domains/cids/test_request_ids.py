"""A mutation with a request_id takes effect once, also if it is repeated or sent concurrently."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import grpc
import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from vsync.v1 import cid_pb2 as pb
from vsyncd.core.validation import Validator
from vsyncd.domains.cids.messages import read_new_cid
from vsyncd.postgres.mutations import fingerprint
from vsyncd.postgres.queries import queries

from tests.harness.cids import Stub, a_record, a_request_id, cid_of, create, execute, failure_of, info_of, rows
from tests.harness.clusters import Database

pytestmark = pytest.mark.both_versions


class Case(NamedTuple):
    """A mutation of the records of `create(cids, range(3))`, and one with other content."""

    method: str
    request: Message
    other: Message


def _update(account: str) -> pb.UpdateCidRequest:
    return pb.UpdateCidRequest(
        key=pb.CidKey(key_value="00000000000", ispb="12345678"),
        update=pb.CidUpdate(cid=cid_of(30), account_number=account, branch="7"),
        update_mask=FieldMask(paths=["cid", "branch", "account_number"]),
    )


CASES = [
    Case("CreateCid", pb.CreateCidRequest(record=a_record(10)), pb.CreateCidRequest(record=a_record(11))),
    Case(
        "BatchCreateCids",
        pb.BatchCreateCidsRequest(records=[a_record(10), a_record(11)]),
        pb.BatchCreateCidsRequest(records=[a_record(12)]),
    ),
    Case("UpdateCid", _update("5"), _update("6")),
    Case(
        "UpdateSyncStatus",
        pb.UpdateSyncStatusRequest(cids=[cid_of(0), cid_of(9)], sync_status=pb.SYNC_STATUS_FAILED, error="no"),
        pb.UpdateSyncStatusRequest(cids=[cid_of(0), cid_of(9)], sync_status=pb.SYNC_STATUS_FAILED, error="other"),
    ),
    Case("DeleteCid", pb.DeleteCidRequest(cid=cid_of(0)), pb.DeleteCidRequest(cid=cid_of(1))),
    Case(
        "BatchDeleteCids",
        pb.BatchDeleteCidsRequest(cids=[cid_of(0), cid_of(9)]),
        pb.BatchDeleteCidsRequest(cids=[cid_of(1)]),
    ),
]
each_mutation = pytest.mark.parametrize("case", CASES, ids=lambda case: case.method)


def with_request_id(request: Any, request_id: str) -> Any:
    """Returns the request with this request_id."""
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = request_id
    return copy


def _effects(database: Database) -> tuple[int, int, int]:
    counts = rows(
        database,
        "SELECT (SELECT count(*) FROM vsync.audit_logs) AS logs, (SELECT count(*) FROM vsync.cid_events) AS events,"
        " (SELECT sum(revision) FROM vsync.cids)::bigint AS revisions",
    )[0]
    return (counts["logs"], counts["events"], counts["revisions"])


@each_mutation
async def test_a_repeated_request_has_one_effect_and_the_same_response(
    cids: Stub, database: Database, case: Case
) -> None:
    await create(cids, range(3))
    method: Callable[..., Any] = getattr(cids, case.method)
    request_id = a_request_id()
    first = await method(with_request_id(case.request, request_id))
    after = _effects(database)
    assert await method(with_request_id(case.request, request_id.upper())) == first
    other = await failure_of(method(with_request_id(case.other, request_id)))
    assert (other.code(), info_of(other).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert _effects(database) == after


@each_mutation
async def test_concurrent_equal_requests_have_one_effect_and_the_same_response(
    cids: Stub, database: Database, case: Case
) -> None:
    await create(cids, range(3))
    before = _effects(database)
    method: Callable[..., Any] = getattr(cids, case.method)
    request = with_request_id(case.request, a_request_id())
    answers = await asyncio.gather(*(method(request) for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert _effects(database)[0] == before[0] + 1
    changed = {"CreateCid": 1, "BatchCreateCids": 2, "UpdateCid": 1, "UpdateSyncStatus": 1}.get(case.method, -1)
    assert _effects(database)[2] == before[2] + changed


async def test_one_of_two_concurrent_requests_with_the_same_id_is_refused(cids: Stub, database: Database) -> None:
    request_id = a_request_id()
    requests = [pb.CreateCidRequest(record=a_record(n % 2), request_id=request_id) for n in range(10)]
    answers = await asyncio.gather(*map(cids.CreateCid, requests), return_exceptions=True)
    codes = Counter(answer.code() if isinstance(answer, grpc.aio.AioRpcError) else "OK" for answer in answers)
    assert codes == {"OK": 5, grpc.StatusCode.INVALID_ARGUMENT: 5}
    assert len(rows(database, "SELECT FROM vsync.cids")) == 1


async def test_a_failed_request_does_not_use_its_id(cids: Stub) -> None:
    await create(cids, [1])
    request = pb.CreateCidRequest(record=a_record(1), request_id=a_request_id())
    assert (await failure_of(cids.CreateCid(request))).code() is grpc.StatusCode.ALREADY_EXISTS
    await cids.DeleteCid(pb.DeleteCidRequest(cid=cid_of(1)))
    assert (await cids.CreateCid(request)).record.cid == cid_of(1)


async def test_a_repeated_request_returns_the_first_response_after_later_changes(cids: Stub) -> None:
    request = pb.CreateCidRequest(record=a_record(1), request_id=a_request_id())
    first = await cids.CreateCid(request)
    await cids.DeleteCid(pb.DeleteCidRequest(cid=cid_of(1)))
    assert await cids.CreateCid(request) == first
    assert (await failure_of(cids.GetCid(pb.GetCidRequest(cid=cid_of(1))))).code() is grpc.StatusCode.NOT_FOUND


async def test_methods_have_separate_request_ids(cids: Stub) -> None:
    request_id = a_request_id()
    await cids.CreateCid(pb.CreateCidRequest(record=a_record(1), request_id=request_id))
    await cids.DeleteCid(pb.DeleteCidRequest(cid=cid_of(1), request_id=request_id))
    await cids.BatchCreateCids(pb.BatchCreateCidsRequest(records=[a_record(1)], request_id=request_id))


@pytest.mark.parametrize("method", ["CreateCid", "BatchCreateCids"])
async def test_a_request_of_last_week_can_be_repeated(cids: Stub, database: Database, method: str) -> None:
    """Its row is in another partition than that of a new request."""
    week = date.today() - timedelta(days=date.today().weekday() + 7)  # noqa: DTZ011  weeks around it would do as well
    execute(
        database,
        # On a Monday it exists already.
        "SELECT vsync.make_partition('request_ids', %s, %s, %s)",
        f"{week:%G_w%V}",
        str(week),
        str(week + timedelta(days=7)),
    )
    new = read_new_cid(a_record(1), "", Validator())
    content = (new,) if method == "BatchCreateCids" else new
    identifier = UUID("018f0000-0000-7000-8000-000000000001")
    execute(
        database,
        "INSERT INTO vsync.request_ids (request_id, week, actor, method, fingerprint, answer)"
        " VALUES (%s, %s, 'anonymous', %s, %s, %s)",
        UUID(int=7),
        week,
        f"vsync.v1.CidService/{method}",
        fingerprint(*content),
        identifier.bytes,
    )
    request_id = str(UUID(int=7))
    if method == "CreateCid":
        record = (await cids.CreateCid(pb.CreateCidRequest(record=a_record(1), request_id=request_id))).record
    else:
        batch = pb.BatchCreateCidsRequest(records=[a_record(1)], request_id=request_id)
        [record] = (await cids.BatchCreateCids(batch)).records
    assert record.id == str(identifier)
    assert rows(database, "SELECT FROM vsync.cids") == []


async def test_at_the_start_of_a_week_a_request_id_is_stored_in_both_weeks(database: Database) -> None:
    """The unique index of each partition then detects a concurrent execution."""
    statement = queries("vsyncd.postgres", "vsync")["keep_request"].sql
    parameters = {"actor": "a", "method": "m", "fingerprint": bytes(16), "answer": b""}
    with psycopg.connect(database.service) as connection:
        row = connection.execute("SELECT date_trunc('week', now() AT TIME ZONE 'UTC') + interval '7 days'").fetchone()
        assert row is not None
        for minutes, expected in ((5, 2), (11, 1)):
            at = f"(timestamptz '{row[0]}+00' + interval '{minutes} minutes')"
            moved = statement.replace(b"clock_timestamp()", at.encode())
            assert connection.execute(moved, parameters | {"request_id": UUID(int=minutes)}).rowcount == expected
