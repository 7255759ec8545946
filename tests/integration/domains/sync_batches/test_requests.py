"""Properties of every mutation: named bad fields, one effect per request_id, an audit entry, and validate_only."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from vsync.v1 import sync_batch_pb2 as pb
from vsync.v1.cid_pb2 import SYNC_STATUS_FAILED, SYNC_STATUS_PENDING, SYNC_STATUS_SYNCED

from tests.integration.domains.sync_batches.batches import DAY, ISPB, Batches, Store, cids_of, refusal, results

ID = "01900000-0000-7000-8000-000000000000"
CID = "ab" * 32
MINUTE = Duration(seconds=60)

BAD_REQUESTS: list[tuple[str, Any, list[str]]] = [
    ("CreateSyncBatch", pb.CreateSyncBatchRequest(), ["batch_date"]),
    (
        "CreateSyncBatch",
        pb.CreateSyncBatchRequest(ispb="1234567", batch_date="2026-02-30", request_id="1"),
        ["ispb", "batch_date", "request_id"],
    ),
    ("CreateSyncBatch", pb.CreateSyncBatchRequest(ispb="1234567\0", batch_date="20261103"), ["ispb", "batch_date"]),
    ("GetSyncBatch", pb.GetSyncBatchRequest(), ["by"]),
    ("GetSyncBatch", pb.GetSyncBatchRequest(id="x"), ["id"]),
    (
        "GetSyncBatch",
        pb.GetSyncBatchRequest(key=pb.SyncBatchKey(ispb="1", batch_date="2026-1-1")),
        ["key.ispb", "key.batch_date"],
    ),
    (
        "ListSyncBatches",
        pb.ListSyncBatchesRequest(
            status=9,  # type: ignore[arg-type]  # a number that the enum does not have
            date_after="x",
            date_before="2026-13-01",
            ispb="12",
        ),
        ["status", "date_after", "ispb", "date_before"],
    ),
    ("ListSyncBatches", pb.ListSyncBatchesRequest(page_size=-1), ["page_size"]),
    ("ListSyncBatches", pb.ListSyncBatchesRequest(page_token="made up"), ["page_token"]),
    ("StartSyncBatch", pb.StartSyncBatchRequest(id="", request_id="x"), ["id", "request_id"]),
    ("CompleteSyncBatch", pb.CompleteSyncBatchRequest(id="x"), ["id"]),
    ("RetrySyncBatch", pb.RetrySyncBatchRequest(id="x"), ["id"]),
    ("FailSyncBatch", pb.FailSyncBatchRequest(id="x"), ["id", "error_message"]),
    ("FailSyncBatch", pb.FailSyncBatchRequest(id=ID, error_message="x" * 1001), ["error_message"]),
    ("FailSyncBatch", pb.FailSyncBatchRequest(id=ID, error_message="a\0b"), ["error_message"]),
    (
        "ClaimSyncRecords",
        pb.ClaimSyncRecordsRequest(),
        ["batch_id", "worker_id", "max_records", "lease_duration"],
    ),
    (
        "ClaimSyncRecords",
        pb.ClaimSyncRecordsRequest(
            batch_id=ID, worker_id="w" * 101, max_records=1001, lease_duration=Duration(seconds=3600, nanos=1)
        ),
        ["worker_id", "max_records", "lease_duration"],
    ),
    (
        "ClaimSyncRecords",
        pb.ClaimSyncRecordsRequest(
            batch_id=ID, worker_id="w", max_records=-1, lease_duration=Duration(seconds=2, nanos=-1)
        ),
        ["max_records", "lease_duration"],
    ),
    (
        "ExtendSyncLease",
        pb.ExtendSyncLeaseRequest(lease_duration=Duration(nanos=999_999_999)),
        ["claim_token", "lease_duration"],
    ),
    ("ReleaseSyncRecords", pb.ReleaseSyncRecordsRequest(claim_token="x"), ["claim_token"]),
    ("ReportSyncRecords", pb.ReportSyncRecordsRequest(claim_token="x"), ["claim_token", "results"]),
    ("ReportSyncRecords", pb.ReportSyncRecordsRequest(claim_token=ID, results=results([CID] * 1001)), ["results"]),
    (
        "ReportSyncRecords",
        pb.ReportSyncRecordsRequest(
            claim_token=ID,
            results=[
                pb.SyncResult(cid="xy", sync_status=SYNC_STATUS_SYNCED),
                pb.SyncResult(cid=CID, sync_status=SYNC_STATUS_PENDING),
                pb.SyncResult(cid=CID.upper(), sync_status=SYNC_STATUS_FAILED),
                pb.SyncResult(cid="cd" * 32, sync_status=SYNC_STATUS_SYNCED, error="but"),
                pb.SyncResult(cid="ef" * 32, sync_status=SYNC_STATUS_FAILED, error="x" * 1001),
            ],
        ),
        [
            "results[0].cid",
            "results[1].sync_status",
            "results[2].error",
            "results[3].error",
            "results[4].error",
            "results[2].cid",
        ],
    ),
]


async def test_a_bad_request_names_every_bad_field(batches: Batches) -> None:
    for method, request, fields in BAD_REQUESTS:
        answer = await refusal(getattr(batches.stub, method)(request))
        assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), request
        assert answer.fields == fields, request


STATE = """
SELECT (SELECT jsonb_agg(to_jsonb(t) ORDER BY id) FROM "vsync".sync_batches AS t),
       (SELECT jsonb_agg(to_jsonb(t) ORDER BY batch_id, cid) FROM "vsync".sync_batch_records AS t),
       (SELECT jsonb_agg(to_jsonb(t) ORDER BY id) FROM "vsync".cids AS t),
       (SELECT jsonb_agg(to_jsonb(t) ORDER BY id) FROM "vsync".audit_logs AS t),
       (SELECT jsonb_agg(to_jsonb(t) ORDER BY request_id, week) FROM "vsync".request_ids AS t)
"""


class Scene:
    """Prepares a batch for a mutation."""

    def __init__(self, batches: Batches, store: Store) -> None:
        self.batches = batches
        self.store = store

    async def prepare(self, method: str) -> Callable[..., Awaitable[Any]]:
        """Returns the mutation; its parameters are request_id and validate_only."""
        batches, cids = self.batches, self.store.add_cids(4)
        if method == "CreateSyncBatch":
            return lambda **more: batches.create(ispb=ISPB, **more)
        batch = await batches.create()
        if method == "StartSyncBatch":
            return lambda **more: batches.start(batch, **more)
        await batches.start(batch)
        if method == "ClaimSyncRecords":
            return lambda **more: batches.claim(batch, 3, **more)
        token = (await batches.claim(batch)).claim_token
        by_token: dict[str, Callable[..., Awaitable[Any]]] = {
            "ExtendSyncLease": lambda **more: batches.extend(token, **more),
            "ReleaseSyncRecords": lambda **more: batches.release(token, **more),
            "ReportSyncRecords": lambda **more: batches.report(token, cids[:3], cids[3:], **more),
            "FailSyncBatch": lambda **more: batches.fail(batch, **more),
        }
        if method in by_token:
            return by_token[method]
        await batches.report(token, cids[:3], cids[3:])
        if method == "CompleteSyncBatch":
            return lambda **more: batches.complete(batch, **more)
        await batches.fail(batch)
        return lambda **more: batches.retry(batch, **more)

    def state(self) -> list[Any]:
        """Returns everything that a mutation can change."""
        return self.store.query(STATE)


MUTATIONS = [
    "CreateSyncBatch",
    "StartSyncBatch",
    "ClaimSyncRecords",
    "ExtendSyncLease",
    "ReleaseSyncRecords",
    "ReportSyncRecords",
    "CompleteSyncBatch",
    "FailSyncBatch",
    "RetrySyncBatch",
]
# A start has entries for STARTING, for the intake and for RUNNING; the other mutations have one.
ENTRIES = {"StartSyncBatch": 3}


@pytest.fixture
def scene(batches: Batches, store: Store) -> Scene:
    """Prepares batches in the database of the test."""
    return Scene(batches, store)


@pytest.mark.parametrize("method", MUTATIONS)
async def test_a_repeated_request_has_one_effect_one_audit_entry_and_the_same_response(
    scene: Scene, method: str
) -> None:
    call, request_id = await scene.prepare(method), str(uuid4())
    entries_before = len(scene.store.audit(method))
    first = await call(request_id=request_id)
    after = scene.state()
    assert await call(request_id=request_id) == first
    other = await refusal(getattr(scene.batches.stub, method)(with_other_content(method, request_id)))
    assert (other.code, other.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert scene.state() == after

    entries = scene.store.audit(method)[entries_before:]
    assert len(entries) == ENTRIES.get(method, 1)
    assert all("batch_id" in entry for entry in entries)
    assert not {"11122233300", "7654321"} & set(str(entries).replace("'", " ").split())


def with_other_content(method: str, request_id: str) -> object:
    """Returns a valid request of a method with other content."""
    requests: dict[str, object] = {
        "CreateSyncBatch": pb.CreateSyncBatchRequest(batch_date="2026-12-31", request_id=request_id),
        "StartSyncBatch": pb.StartSyncBatchRequest(id=ID, request_id=request_id),
        "ClaimSyncRecords": pb.ClaimSyncRecordsRequest(
            batch_id=ID, worker_id="w", max_records=1, lease_duration=MINUTE, request_id=request_id
        ),
        "ExtendSyncLease": pb.ExtendSyncLeaseRequest(claim_token=ID, lease_duration=MINUTE, request_id=request_id),
        "ReleaseSyncRecords": pb.ReleaseSyncRecordsRequest(claim_token=ID, request_id=request_id),
        "ReportSyncRecords": pb.ReportSyncRecordsRequest(claim_token=ID, results=results([CID]), request_id=request_id),
        "CompleteSyncBatch": pb.CompleteSyncBatchRequest(id=ID, request_id=request_id),
        "FailSyncBatch": pb.FailSyncBatchRequest(id=ID, error_message="x", request_id=request_id),
        "RetrySyncBatch": pb.RetrySyncBatchRequest(id=ID, request_id=request_id),
    }
    return requests[method]


@pytest.mark.parametrize("method", MUTATIONS)
async def test_concurrent_equal_requests_take_effect_once(scene: Scene, method: str) -> None:
    call = await scene.prepare(method)
    request_id = str(uuid4())
    entries = len(scene.store.audit(method))
    answers = await asyncio.gather(*(call(request_id=request_id) for _ in range(5)))
    assert all(answer == answers[0] for answer in answers)
    assert len(scene.store.audit(method)) == entries + ENTRIES.get(method, 1)


@pytest.mark.parametrize("method", MUTATIONS)
async def test_validate_only_returns_the_result_and_changes_nothing(scene: Scene, method: str) -> None:
    call = await scene.prepare(method)
    before = scene.state()
    answer = await call(request_id=str(uuid4()), validate_only=True)
    assert scene.state() == before
    real = await call(request_id=str(uuid4()))
    if isinstance(answer, pb.SyncBatch) and method != "StartSyncBatch":
        assert (answer.status, answer.failed_records) == (real.status, real.failed_records)
    if method in {"ReleaseSyncRecords", "ReportSyncRecords"}:
        assert answer == real


async def test_a_claim_repeated_after_its_report_returns_the_same_records(batches: Batches, store: Store) -> None:
    store.add_cids(5)
    batch = await batches.running()
    request_id = str(uuid4())
    claim = await batches.claim(batch, 3, request_id=request_id)
    await batches.report(claim.claim_token, synced=cids_of(claim))
    again = await batches.claim(batch, 3, request_id=request_id)
    assert (again.claim_token, again.lease_expires_at) == (claim.claim_token, claim.lease_expires_at)
    assert cids_of(again) == cids_of(claim)
    assert [record.sync_status for record in again.records] == [SYNC_STATUS_SYNCED] * 3


async def test_a_repeated_claim_that_has_lost_its_records_returns_none(batches: Batches, store: Store) -> None:
    store.add_cids(3)
    batch = await batches.running()
    request_id = str(uuid4())
    claim = await batches.claim(batch, request_id=request_id)
    await batches.release(claim.claim_token)
    other = await batches.claim(batch)
    assert len(other.records) == 3
    assert await batches.claim(batch, request_id=request_id) == pb.ClaimSyncRecordsResponse()


async def test_a_repeated_claim_leaves_out_changed_cids(batches: Batches, store: Store) -> None:
    cids = store.add_cids(3)
    batch = await batches.running()
    request_id = str(uuid4())
    claim = await batches.claim(batch, request_id=request_id)
    store.change_and_change_back(cids[:1])
    store.create_again(cids[1:2])
    again = await batches.claim(batch, request_id=request_id)
    assert again.claim_token == claim.claim_token
    assert cids_of(again) == cids[2:]


async def test_a_repeated_empty_claim_stays_empty(batches: Batches, store: Store) -> None:
    batch = await batches.running()
    request_id = str(uuid4())
    assert list((await batches.claim(batch, request_id=request_id)).records) == []
    store.add_cids(1)
    assert await batches.claim(batch, request_id=request_id) == pb.ClaimSyncRecordsResponse()
    assert store.audit("ClaimSyncRecords") == []


async def test_validate_only_of_a_start_checks_the_status(batches: Batches, store: Store) -> None:
    store.add_cids(3)
    batch = await batches.create(DAY)
    assert (await batches.start(batch, validate_only=True)).status == pb.SYNC_BATCH_STATUS_STARTING
    assert (await batches.get(batch)) == batch
    await batches.fail(batch)
    assert (await refusal(batches.start(batch, validate_only=True))).reason == "INVALID_TRANSITION"
