"""SyncBatchService: requests checked, handed to the repositories, and answered."""

from datetime import date
from typing import Any, Final, Protocol
from uuid import UUID

from vsync.v1 import sync_batch_pb2 as pb
from vsync.v1 import sync_batch_pb2_grpc as rpc

from vsyncd.fields import MAX_BATCH, NO_ID, Problems
from vsyncd.fingerprints import fingerprint
from vsyncd.paging import decode_token, encode_token
from vsyncd.postgres.mutations import Mutation
from vsyncd.sync_batches.claims import SyncClaimRepository
from vsyncd.sync_batches.messages import batch_message, claim_message, outcome_message, read_results, timestamp
from vsyncd.sync_batches.records import BatchFilter, Position
from vsyncd.sync_batches.reports import SyncReportRepository
from vsyncd.sync_batches.repository import TOP, SyncBatchRepository
from vsyncd.sync_batches.steps import SyncBatchSteps

Context = Any  # grpc.aio.ServicerContext: vsyncd.call has what a service needs

_STATUSES: Final = range(1, 6)
_MAX_WORKER_ID: Final = 100
_MAX_LEASE: Final = 3_600  # seconds


class _Request(Protocol):
    """What every mutation's request has."""

    @property
    def request_id(self) -> str: ...
    @property
    def validate_only(self) -> bool: ...


class SyncBatchService(rpc.SyncBatchServiceServicer):
    """See sync_batch.proto for what each method does."""

    def __init__(
        self,
        batches: SyncBatchRepository,
        steps: SyncBatchSteps,
        claims: SyncClaimRepository,
        reports: SyncReportRepository,
    ) -> None:
        self._batches = batches
        self._steps = steps
        self._claims = claims
        self._reports = reports

    async def CreateSyncBatch(
        self, request: pb.CreateSyncBatchRequest, _context: Context
    ) -> pb.CreateSyncBatchResponse:
        problems = Problems()
        ispb = problems.ispb("ispb", request.ispb, optional=True)
        batch_date = problems.day("batch_date", request.batch_date)
        mutation = _mutation(request, problems, batch_date, ispb)
        batch = await self._batches.create(mutation, batch_date=batch_date, ispb=ispb)
        return pb.CreateSyncBatchResponse(batch=batch_message(batch))

    async def GetSyncBatch(self, request: pb.GetSyncBatchRequest, _context: Context) -> pb.GetSyncBatchResponse:
        problems = Problems()
        chosen = problems.one_of("by", request.WhichOneof("by"), ("id", "key"))
        if chosen == "key":
            ispb = problems.ispb("key.ispb", request.key.ispb, optional=True)
            batch_date = problems.day("key.batch_date", request.key.batch_date)
            problems.raise_any()
            batch = await self._batches.get_by_key(batch_date, ispb)
        else:
            batch_id = problems.uuid("id", request.id) if chosen else NO_ID
            problems.raise_any()
            batch = await self._batches.get(batch_id)
        return pb.GetSyncBatchResponse(batch=batch_message(batch))

    async def ListSyncBatches(
        self, request: pb.ListSyncBatchesRequest, _context: Context
    ) -> pb.ListSyncBatchesResponse:
        problems = Problems()
        selection = BatchFilter(
            status=problems.choice("status", request.status, _STATUSES, optional=True),
            from_day=problems.day("date_after", request.date_after) if request.date_after else date.min,
            ispb=problems.ispb("ispb", request.ispb, optional=True),
        )
        below = Position(problems.day("date_before", request.date_before), "") if request.date_before else TOP
        size = problems.page_size(request.page_size)
        problems.raise_any()
        scope = ("ListSyncBatches", *selection, below)
        if request.page_token:
            below = _read_position(decode_token(request.page_token, *scope))
        batches, following = await self._batches.page(selection, below=below, size=size)
        return pb.ListSyncBatchesResponse(
            batches=[batch_message(batch) for batch in batches],
            next_page_token=encode_token(_position_bytes(following), *scope) if following else "",
        )

    async def StartSyncBatch(self, request: pb.StartSyncBatchRequest, _context: Context) -> pb.StartSyncBatchResponse:
        mutation, batch_id = _on_batch(request)
        return pb.StartSyncBatchResponse(batch=batch_message(await self._steps.start(mutation, batch_id)))

    async def CompleteSyncBatch(
        self, request: pb.CompleteSyncBatchRequest, _context: Context
    ) -> pb.CompleteSyncBatchResponse:
        mutation, batch_id = _on_batch(request)
        return pb.CompleteSyncBatchResponse(batch=batch_message(await self._batches.complete(mutation, batch_id)))

    async def FailSyncBatch(self, request: pb.FailSyncBatchRequest, _context: Context) -> pb.FailSyncBatchResponse:
        problems = Problems()
        batch_id = problems.uuid("id", request.id)
        message = problems.error_text("error_message", request.error_message)
        mutation = _mutation(request, problems, batch_id, message)
        batch = await self._batches.fail(mutation, batch_id, error_message=message)
        return pb.FailSyncBatchResponse(batch=batch_message(batch))

    async def RetrySyncBatch(self, request: pb.RetrySyncBatchRequest, _context: Context) -> pb.RetrySyncBatchResponse:
        mutation, batch_id = _on_batch(request)
        return pb.RetrySyncBatchResponse(batch=batch_message(await self._steps.retry(mutation, batch_id)))

    async def ClaimSyncRecords(
        self, request: pb.ClaimSyncRecordsRequest, _context: Context
    ) -> pb.ClaimSyncRecordsResponse:
        problems = Problems()
        batch_id = problems.uuid("batch_id", request.batch_id)
        worker_id = problems.text("worker_id", request.worker_id, at_most=_MAX_WORKER_ID)
        most = problems.number("max_records", request.max_records, at_least=1, at_most=MAX_BATCH)
        lease = problems.duration("lease_duration", request.lease_duration, at_least=1, at_most=_MAX_LEASE)
        mutation = _mutation(request, problems, batch_id, worker_id, most, lease)
        claim = await self._claims.claim(mutation, batch_id, worker_id=worker_id, most=most, lease=lease)
        return claim_message(claim)

    async def ExtendSyncLease(
        self, request: pb.ExtendSyncLeaseRequest, _context: Context
    ) -> pb.ExtendSyncLeaseResponse:
        problems = Problems()
        token = problems.uuid("claim_token", request.claim_token)
        lease = problems.duration("lease_duration", request.lease_duration, at_least=1, at_most=_MAX_LEASE)
        mutation = _mutation(request, problems, token, lease)
        extension = await self._claims.extend(mutation, token, lease=lease)
        return pb.ExtendSyncLeaseResponse(
            extended=extension.extended, lease_expires_at=timestamp(extension.lease_expires_at)
        )

    async def ReleaseSyncRecords(
        self, request: pb.ReleaseSyncRecordsRequest, _context: Context
    ) -> pb.ReleaseSyncRecordsResponse:
        problems = Problems()
        token = problems.uuid("claim_token", request.claim_token)
        mutation = _mutation(request, problems, token)
        return pb.ReleaseSyncRecordsResponse(released=await self._claims.release(mutation, token))

    async def ReportSyncRecords(
        self, request: pb.ReportSyncRecordsRequest, _context: Context
    ) -> pb.ReportSyncRecordsResponse:
        problems = Problems()
        token = problems.uuid("claim_token", request.claim_token)
        results = read_results(request.results, problems)
        mutation = _mutation(request, problems, token, [tuple(result) for result in results])
        outcomes = await self._reports.report(mutation, token, results)
        return pb.ReportSyncRecordsResponse(
            outcomes=[outcome_message(result, outcome) for result, outcome in zip(results, outcomes, strict=True)]
        )


def _mutation(request: _Request, problems: Problems, *values: object) -> Mutation:
    """The mutation that a request asks for; `values` are its validated fields. Raises what was found bad."""
    request_id: UUID | None = problems.optional_uuid("request_id", request.request_id)
    problems.raise_any()
    return Mutation(request_id=request_id, fingerprint=fingerprint(*values), validate_only=request.validate_only)


def _on_batch(
    request: pb.StartSyncBatchRequest | pb.CompleteSyncBatchRequest | pb.RetrySyncBatchRequest,
) -> tuple[Mutation, UUID]:
    problems = Problems()
    batch_id = problems.uuid("id", request.id)
    return _mutation(request, problems, batch_id), batch_id


def _position_bytes(position: Position) -> bytes:
    return f"{position.day.isoformat()} {position.ispb}".encode()


def _read_position(data: bytes) -> Position:
    day, ispb = data.decode().split(" ")
    return Position(date.fromisoformat(day), ispb)
