"""Helpers for tests of SyncBatchService: calls, and access to the database."""

import secrets
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypedDict, Unpack
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from vsync.v1 import sync_batch_pb2 as pb
from vsync.v1 import sync_batch_pb2_grpc as rpc
from vsync.v1.cid_pb2 import SYNC_STATUS_FAILED, SYNC_STATUS_SYNCED

DAY = "2026-11-03"
ISPB = "12345678"
OTHER_ISPB = "87654321"


Parameters = Sequence[object] | Mapping[str, object] | None

ADD_CIDS = """
INSERT INTO "vsync".cids (id, created_at, cid, key_type, key_value, ispb, account_number, account_type, tax_id)
SELECT id, "vsync".uuid_v7_time(id), cid, 5, key_value, %(ispb)s, '7654321', 1, '11122233300'
FROM (SELECT "vsync".uuid_v7(clock_timestamp()) AS id, cid, key_value
      FROM unnest(%(cids)s::bytea[], %(keys)s::text[]) AS given (cid, key_value)) AS new
"""


class Options(TypedDict, total=False):
    """The options of every mutation."""

    request_id: str
    validate_only: bool


class Batches:
    """Calls of the service with default arguments."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: rpc.SyncBatchServiceAsyncStub = rpc.SyncBatchServiceStub(channel)

    async def create(self, day: str = DAY, ispb: str = "", **more: Unpack[Options]) -> pb.SyncBatch:
        """Creates a batch."""
        request = pb.CreateSyncBatchRequest(batch_date=day, ispb=ispb, **more)
        return (await self.stub.CreateSyncBatch(request)).batch

    async def get(self, batch: pb.SyncBatch) -> pb.SyncBatch:
        """Returns the current batch."""
        return (await self.stub.GetSyncBatch(pb.GetSyncBatchRequest(id=batch.id))).batch

    async def start(
        self, batch: pb.SyncBatch, *, timeout: float | None = None, **more: Unpack[Options]
    ) -> pb.SyncBatch:
        """Starts a batch."""
        request = pb.StartSyncBatchRequest(id=batch.id, **more)
        return (await self.stub.StartSyncBatch(request, timeout=timeout)).batch

    async def running(self, day: str = DAY, ispb: str = "") -> pb.SyncBatch:
        """Creates and starts a batch."""
        return await self.start(await self.create(day, ispb))

    async def claim(
        self,
        batch: pb.SyncBatch,
        most: int = 1000,
        *,
        seconds: float = 600,
        worker: str = "worker-1",
        **more: Unpack[Options],
    ) -> pb.ClaimSyncRecordsResponse:
        """Claims records."""
        lease = Duration()
        lease.FromTimedelta(timedelta(seconds=seconds))
        return await self.stub.ClaimSyncRecords(
            pb.ClaimSyncRecordsRequest(
                batch_id=batch.id, worker_id=worker, max_records=most, lease_duration=lease, **more
            )
        )

    async def extend(self, token: str, seconds: int = 600, **more: Unpack[Options]) -> pb.ExtendSyncLeaseResponse:
        """Extends the lease of a claim."""
        request = pb.ExtendSyncLeaseRequest(claim_token=token, lease_duration=Duration(seconds=seconds), **more)
        return await self.stub.ExtendSyncLease(request)

    async def release(self, token: str, **more: Unpack[Options]) -> int:
        """Releases a claim. Returns the number of released records."""
        request = pb.ReleaseSyncRecordsRequest(claim_token=token, **more)
        return (await self.stub.ReleaseSyncRecords(request)).released

    async def report(
        self, token: str, synced: Iterable[str] = (), failed: Iterable[str] = (), **more: Unpack[Options]
    ) -> list[str]:
        """Reports results. Returns the names of the outcomes, first those of `synced`, then those of `failed`."""
        request = pb.ReportSyncRecordsRequest(claim_token=token, results=results(synced, failed), **more)
        response = await self.stub.ReportSyncRecords(request)
        assert [outcome.cid for outcome in response.outcomes] == [result.cid for result in request.results]
        return [pb.ReportOutcome.Name(outcome.outcome).removeprefix("REPORT_OUTCOME_") for outcome in response.outcomes]

    async def complete(self, batch: pb.SyncBatch, **more: Unpack[Options]) -> pb.SyncBatch:
        """Completes a batch."""
        return (await self.stub.CompleteSyncBatch(pb.CompleteSyncBatchRequest(id=batch.id, **more))).batch

    async def fail(self, batch: pb.SyncBatch, message: str = "given up", **more: Unpack[Options]) -> pb.SyncBatch:
        """Fails a batch."""
        request = pb.FailSyncBatchRequest(id=batch.id, error_message=message, **more)
        return (await self.stub.FailSyncBatch(request)).batch

    async def retry(self, batch: pb.SyncBatch, **more: Unpack[Options]) -> pb.SyncBatch:
        """Retries a batch."""
        return (await self.stub.RetrySyncBatch(pb.RetrySyncBatchRequest(id=batch.id, **more))).batch


def results(synced: Iterable[str] = (), failed: Iterable[str] = ()) -> list[pb.SyncResult]:
    """Returns results for a report."""
    return [pb.SyncResult(cid=cid, sync_status=SYNC_STATUS_SYNCED) for cid in synced] + [
        pb.SyncResult(cid=cid, sync_status=SYNC_STATUS_FAILED, error="the directory said no") for cid in failed
    ]


def cids_of(claim: pb.ClaimSyncRecordsResponse) -> list[str]:
    """Returns the cids of a claim."""
    return [record.cid for record in claim.records]


class Refusal(NamedTuple):
    """An error response."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    fields: list[str]


async def refusal(call: Awaitable[object]) -> Refusal:
    """Returns the error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    status = rpc_status.from_call(raised.value)  # type: ignore[arg-type]  # it reads what an AioRpcError has as well
    assert status is not None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    fields = [violation.field for violation in bad.field_violations]
    return Refusal(raised.value.code(), info.reason, dict(info.metadata), fields)


def forbidden(current: str, requested: str) -> Refusal:
    """Returns the error of a call that the status of the batch does not permit."""
    names = {"from": current, "to": requested}
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, "INVALID_TRANSITION", names, [])


class Store:
    """Access to the database as its owner."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def query(self, sql: str, parameters: Parameters = None) -> list[Any]:
        """Returns the rows of a query."""
        return self.connection.execute(sql.encode(), parameters).fetchall()

    def run(self, sql: str, parameters: Parameters = None) -> int:
        """Executes a statement. Returns the number of affected rows."""
        return self.connection.execute(sql.encode(), parameters).rowcount

    def add_cids(self, count: int, ispb: str = ISPB) -> list[str]:
        """Inserts PENDING CIDs. Returns their cids."""
        cids = [secrets.token_bytes(32) for _ in range(count)]
        keys = [str(uuid4()) for _ in cids]
        self.run(ADD_CIDS, {"cids": cids, "keys": keys, "ispb": ispb})
        return [cid.hex() for cid in cids]

    def delete_cids(self, cids: Sequence[str]) -> None:
        """Deletes CIDs."""
        self.run('DELETE FROM "vsync".cids WHERE cid = ANY (%s)', [[bytes.fromhex(cid) for cid in cids]])

    def change_and_change_back(self, cids: Sequence[str]) -> None:
        """Has the effect of two UpdateCid calls: PENDING, the same cid, and two more revisions."""
        self.run(
            'UPDATE "vsync".cids SET sync_status = 1, last_error = NULL, revision = revision + 2 WHERE cid = ANY (%s)',
            [[bytes.fromhex(cid) for cid in cids]],
        )

    def delete_before(self, cids: Sequence[str], kept: int) -> None:
        """Deletes CIDs except the last `kept`, which are claimed after all others."""
        self.delete_cids(cids[:-kept])
        self.run(
            "UPDATE \"vsync\".sync_batch_records SET lease_until = now() - interval '1 second' WHERE cid = ANY (%s)",
            [[bytes.fromhex(cid) for cid in cids[-kept:]]],
        )

    def create_again(self, cids: Sequence[str]) -> None:
        """Creates new records with these cids, instead of existing ones."""
        self.delete_cids(cids)
        raw = [bytes.fromhex(cid) for cid in cids]
        self.run(ADD_CIDS, {"cids": raw, "keys": [str(uuid4()) for _ in cids], "ispb": ISPB})

    def statuses(self, cids: Sequence[str]) -> list[tuple[int, str | None]]:
        """Returns (sync_status, last_error) of CIDs, in the same order."""
        rows = self.query(
            'SELECT cid, sync_status, last_error FROM "vsync".cids WHERE cid = ANY (%s)',
            [[bytes.fromhex(cid) for cid in cids]],
        )
        by_cid = {bytes(row[0]).hex(): (row[1], row[2]) for row in rows}
        return [by_cid[cid] for cid in cids]

    def end_lease(self, token: str) -> None:
        """Expires the lease of a claim."""
        self.run(
            "UPDATE \"vsync\".sync_batch_records SET lease_until = now() - interval '1 second' WHERE claim_token = %s",
            [UUID(token)],
        )

    def audit(self, method: str) -> list[dict[str, Any]]:
        """Returns the payloads of the audit entries of a method, oldest first."""
        action = f"vsync.v1.SyncBatchService/{method}"
        rows = self.query('SELECT payload FROM "vsync".audit_logs WHERE action = %s ORDER BY id', [action])
        return [row[0] for row in rows]

    def audited_ispbs(self) -> list[tuple[str, str | None]]:
        """Returns the method and the participant of every audit entry, oldest first."""
        rows = self.query("SELECT split_part(action, '/', 2), ispb FROM \"vsync\".audit_logs ORDER BY id")
        return [(row[0], row[1]) for row in rows]
