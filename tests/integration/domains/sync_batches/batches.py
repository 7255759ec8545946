"""What the tests of SyncBatchService say in one word: calls, and looks into the database."""

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
    """What every mutation takes."""

    request_id: str
    validate_only: bool


class Batches:
    """The service's methods, with defaults for what a test does not care about."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: rpc.SyncBatchServiceAsyncStub = rpc.SyncBatchServiceStub(channel)

    async def create(self, day: str = DAY, ispb: str = "", **more: Unpack[Options]) -> pb.SyncBatch:
        """A new batch."""
        request = pb.CreateSyncBatchRequest(batch_date=day, ispb=ispb, **more)
        return (await self.stub.CreateSyncBatch(request)).batch

    async def get(self, batch: pb.SyncBatch) -> pb.SyncBatch:
        """The batch as it is now."""
        return (await self.stub.GetSyncBatch(pb.GetSyncBatchRequest(id=batch.id))).batch

    async def start(
        self, batch: pb.SyncBatch, *, timeout: float | None = None, **more: Unpack[Options]
    ) -> pb.SyncBatch:
        """One call of StartSyncBatch."""
        request = pb.StartSyncBatchRequest(id=batch.id, **more)
        return (await self.stub.StartSyncBatch(request, timeout=timeout)).batch

    async def running(self, day: str = DAY, ispb: str = "") -> pb.SyncBatch:
        """A new batch, started."""
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
        """One claim."""
        lease = Duration()
        lease.FromTimedelta(timedelta(seconds=seconds))
        return await self.stub.ClaimSyncRecords(
            pb.ClaimSyncRecordsRequest(
                batch_id=batch.id, worker_id=worker, max_records=most, lease_duration=lease, **more
            )
        )

    async def extend(self, token: str, seconds: int = 600, **more: Unpack[Options]) -> pb.ExtendSyncLeaseResponse:
        """More time for a claim."""
        request = pb.ExtendSyncLeaseRequest(claim_token=token, lease_duration=Duration(seconds=seconds), **more)
        return await self.stub.ExtendSyncLease(request)

    async def release(self, token: str, **more: Unpack[Options]) -> int:
        """How many were given back."""
        request = pb.ReleaseSyncRecordsRequest(claim_token=token, **more)
        return (await self.stub.ReleaseSyncRecords(request)).released

    async def report(
        self, token: str, synced: Iterable[str] = (), failed: Iterable[str] = (), **more: Unpack[Options]
    ) -> list[str]:
        """The outcomes' names, first of what was synced, then of what failed."""
        request = pb.ReportSyncRecordsRequest(claim_token=token, results=results(synced, failed), **more)
        response = await self.stub.ReportSyncRecords(request)
        assert [outcome.cid for outcome in response.outcomes] == [result.cid for result in request.results]
        return [pb.ReportOutcome.Name(outcome.outcome).removeprefix("REPORT_OUTCOME_") for outcome in response.outcomes]

    async def complete(self, batch: pb.SyncBatch, **more: Unpack[Options]) -> pb.SyncBatch:
        """The batch, completed."""
        return (await self.stub.CompleteSyncBatch(pb.CompleteSyncBatchRequest(id=batch.id, **more))).batch

    async def fail(self, batch: pb.SyncBatch, message: str = "given up", **more: Unpack[Options]) -> pb.SyncBatch:
        """The batch, failed."""
        request = pb.FailSyncBatchRequest(id=batch.id, error_message=message, **more)
        return (await self.stub.FailSyncBatch(request)).batch

    async def retry(self, batch: pb.SyncBatch, **more: Unpack[Options]) -> pb.SyncBatch:
        """The batch, taken up again."""
        return (await self.stub.RetrySyncBatch(pb.RetrySyncBatchRequest(id=batch.id, **more))).batch


def results(synced: Iterable[str] = (), failed: Iterable[str] = ()) -> list[pb.SyncResult]:
    """Results for a report."""
    return [pb.SyncResult(cid=cid, sync_status=SYNC_STATUS_SYNCED) for cid in synced] + [
        pb.SyncResult(cid=cid, sync_status=SYNC_STATUS_FAILED, error="the directory said no") for cid in failed
    ]


def cids_of(claim: pb.ClaimSyncRecordsResponse) -> list[str]:
    """The CIDs that a claim handed out."""
    return [record.cid for record in claim.records]


class Refusal(NamedTuple):
    """An answer that is an error."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    fields: list[str]


async def refusal(call: Awaitable[object]) -> Refusal:
    """What the error says that a call ends with."""
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


def forbidden(present: str, asked: str) -> Refusal:
    """What a call answers that a batch's state forbids."""
    names = {"from": present, "to": asked}
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, "INVALID_TRANSITION", names, [])


class Store:
    """The database itself."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def query(self, sql: str, parameters: Parameters = None) -> list[Any]:
        """Rows."""
        return self.connection.execute(sql.encode(), parameters).fetchall()

    def run(self, sql: str, parameters: Parameters = None) -> int:
        """How many rows were touched."""
        return self.connection.execute(sql.encode(), parameters).rowcount

    def add_cids(self, count: int, ispb: str = ISPB) -> list[str]:
        """New CIDs that are PENDING."""
        cids = [secrets.token_bytes(32) for _ in range(count)]
        keys = [str(uuid4()) for _ in cids]
        self.run(ADD_CIDS, {"cids": cids, "keys": keys, "ispb": ispb})
        return [cid.hex() for cid in cids]

    def delete_cids(self, cids: Sequence[str]) -> None:
        """Take CIDs away."""
        self.run('DELETE FROM "vsync".cids WHERE cid = ANY (%s)', [[bytes.fromhex(cid) for cid in cids]])

    def change_and_change_back(self, cids: Sequence[str]) -> None:
        """As two calls of UpdateCid do it: PENDING, under the same cid, two revisions on."""
        self.run(
            'UPDATE "vsync".cids SET sync_status = 1, last_error = NULL, revision = revision + 2 WHERE cid = ANY (%s)',
            [[bytes.fromhex(cid) for cid in cids]],
        )

    def delete_before(self, cids: Sequence[str], kept: int) -> None:
        """Take CIDs away, but for the last few, which are claimed behind all the others."""
        self.delete_cids(cids[:-kept])
        self.run(
            "UPDATE \"vsync\".sync_batch_records SET lease_until = now() - interval '1 second' WHERE cid = ANY (%s)",
            [[bytes.fromhex(cid) for cid in cids[-kept:]]],
        )

    def create_again(self, cids: Sequence[str]) -> None:
        """New records under these cids, in place of those that there may be."""
        self.delete_cids(cids)
        raw = [bytes.fromhex(cid) for cid in cids]
        self.run(ADD_CIDS, {"cids": raw, "keys": [str(uuid4()) for _ in cids], "ispb": ISPB})

    def statuses(self, cids: Sequence[str]) -> list[tuple[int, str | None]]:
        """(sync_status, last_error) of CIDs, in their order."""
        rows = self.query(
            'SELECT cid, sync_status, last_error FROM "vsync".cids WHERE cid = ANY (%s)',
            [[bytes.fromhex(cid) for cid in cids]],
        )
        by_cid = {bytes(row[0]).hex(): (row[1], row[2]) for row in rows}
        return [by_cid[cid] for cid in cids]

    def end_lease(self, token: str) -> None:
        """As if the time of a claim had passed."""
        self.run(
            "UPDATE \"vsync\".sync_batch_records SET lease_until = now() - interval '1 second' WHERE claim_token = %s",
            [UUID(token)],
        )

    def audit(self, method: str) -> list[dict[str, Any]]:
        """The payloads of the entries of a method, oldest first."""
        action = f"vsync.v1.SyncBatchService/{method}"
        rows = self.query('SELECT payload FROM "vsync".audit_logs WHERE action = %s ORDER BY id', [action])
        return [row[0] for row in rows]
