"""Implements SyncBatchService: validates requests, calls the repositories and builds responses."""

from datetime import date
from typing import Final
from uuid import UUID

from vsync.v1 import sync_batch_pb2 as pb
from vsync.v1 import sync_batch_pb2_grpc as rpc

from vsyncd.core.context import Context
from vsyncd.core.paging import decode_page_token, encode_page_token
from vsyncd.core.scope import current_scope
from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import MAX_BATCH, NO_ID, Validator
from vsyncd.domains.sync_batches.claims import SyncClaimRepository
from vsyncd.domains.sync_batches.messages import batch_message, claim_message, outcome_message, read_results
from vsyncd.domains.sync_batches.records import BatchFilter, BatchPosition
from vsyncd.domains.sync_batches.repository import MAX_POSITION, SyncBatchRepository
from vsyncd.domains.sync_batches.transitions import SyncBatchTransitions
from vsyncd.postgres.mutations import Mutation, mutation_of

_STATUSES: Final = range(1, 6)
_MAX_WORKER_ID_CHARS: Final = 100
_MAX_LEASE_S: Final = 3_600


class SyncBatchService(rpc.SyncBatchServiceServicer):
    """See sync_batch.proto for the methods."""

    def __init__(
        self,
        batches: SyncBatchRepository,
        transitions: SyncBatchTransitions,
        claims: SyncClaimRepository,
    ) -> None:
        self._batches = batches
        self._transitions = transitions
        self._claims = claims

    async def CreateSyncBatch(
        self, request: pb.CreateSyncBatchRequest, _context: Context
    ) -> pb.CreateSyncBatchResponse:
        validator = Validator()
        ispb = validator.ispb("ispb", request.ispb, optional=True)
        batch_date = validator.day("batch_date", request.batch_date)
        mutation = mutation_of(request, validator, batch_date, ispb)
        batch = await self._batches.create(mutation, batch_date=batch_date, ispb=ispb, scope=current_scope())
        return pb.CreateSyncBatchResponse(batch=batch_message(batch))

    async def GetSyncBatch(self, request: pb.GetSyncBatchRequest, _context: Context) -> pb.GetSyncBatchResponse:
        validator = Validator()
        chosen = validator.one_of("by", request.WhichOneof("by"), ("id", "key"))
        if chosen == "key":
            ispb = validator.ispb("key.ispb", request.key.ispb, optional=True)
            batch_date = validator.day("key.batch_date", request.key.batch_date)
            validator.raise_any()
            batch = await self._batches.get_by_key(batch_date, ispb, scope=current_scope())
        else:
            batch_id = validator.uuid("id", request.id) if chosen else NO_ID
            validator.raise_any()
            batch = await self._batches.get(batch_id, scope=current_scope())
        return pb.GetSyncBatchResponse(batch=batch_message(batch))

    async def ListSyncBatches(
        self, request: pb.ListSyncBatchesRequest, _context: Context
    ) -> pb.ListSyncBatchesResponse:
        with Validator() as validator:
            batch_filter = BatchFilter(
                status=validator.choice("status", request.status, _STATUSES, optional=True),
                from_day=validator.day("date_after", request.date_after) if request.date_after else date.min,
                ispb=validator.ispb("ispb", request.ispb, optional=True),
            )
            below = (
                BatchPosition(validator.day("date_before", request.date_before), "")
                if request.date_before
                else MAX_POSITION
            )
            size = validator.page_size(request.page_size)
        token_scope = ("ListSyncBatches", *batch_filter, below)
        if request.page_token:
            below = _read_position(decode_page_token(request.page_token, *token_scope))
        batches, next_position = await self._batches.page(batch_filter, below=below, size=size, scope=current_scope())
        return pb.ListSyncBatchesResponse(
            batches=[batch_message(batch) for batch in batches],
            next_page_token=encode_page_token(_position_bytes(next_position), *token_scope) if next_position else "",
        )

    async def StartSyncBatch(self, request: pb.StartSyncBatchRequest, _context: Context) -> pb.StartSyncBatchResponse:
        mutation, batch_id = _read_batch_mutation(request)
        batch = await self._transitions.start(mutation, batch_id, scope=current_scope())
        return pb.StartSyncBatchResponse(batch=batch_message(batch))

    async def CompleteSyncBatch(
        self, request: pb.CompleteSyncBatchRequest, _context: Context
    ) -> pb.CompleteSyncBatchResponse:
        mutation, batch_id = _read_batch_mutation(request)
        batch = await self._transitions.complete(mutation, batch_id, scope=current_scope())
        return pb.CompleteSyncBatchResponse(batch=batch_message(batch))

    async def FailSyncBatch(self, request: pb.FailSyncBatchRequest, _context: Context) -> pb.FailSyncBatchResponse:
        validator = Validator()
        batch_id = validator.uuid("id", request.id)
        message = validator.error_text("error_message", request.error_message)
        mutation = mutation_of(request, validator, batch_id, message)
        batch = await self._transitions.fail(mutation, batch_id, error_message=message, scope=current_scope())
        return pb.FailSyncBatchResponse(batch=batch_message(batch))

    async def RetrySyncBatch(self, request: pb.RetrySyncBatchRequest, _context: Context) -> pb.RetrySyncBatchResponse:
        mutation, batch_id = _read_batch_mutation(request)
        batch = await self._transitions.retry(mutation, batch_id, scope=current_scope())
        return pb.RetrySyncBatchResponse(batch=batch_message(batch))

    async def ClaimSyncRecords(
        self, request: pb.ClaimSyncRecordsRequest, _context: Context
    ) -> pb.ClaimSyncRecordsResponse:
        validator = Validator()
        batch_id = validator.uuid("batch_id", request.batch_id)
        worker_id = validator.identifier("worker_id", request.worker_id, max_chars=_MAX_WORKER_ID_CHARS)
        max_records = validator.number("max_records", request.max_records, min_value=1, max_value=MAX_BATCH)
        lease = validator.duration("lease_duration", request.lease_duration, min_seconds=1, max_seconds=_MAX_LEASE_S)
        mutation = mutation_of(request, validator, batch_id, worker_id, max_records, lease)
        claim = await self._claims.claim(
            mutation, batch_id, worker_id=worker_id, max_records=max_records, lease=lease, scope=current_scope()
        )
        return claim_message(claim)

    async def ExtendSyncLease(
        self, request: pb.ExtendSyncLeaseRequest, _context: Context
    ) -> pb.ExtendSyncLeaseResponse:
        validator = Validator()
        token = validator.uuid("claim_token", request.claim_token)
        lease = validator.duration("lease_duration", request.lease_duration, min_seconds=1, max_seconds=_MAX_LEASE_S)
        mutation = mutation_of(request, validator, token, lease)
        extension = await self._claims.extend(mutation, token, lease=lease, scope=current_scope())
        return pb.ExtendSyncLeaseResponse(
            extended=extension.extended, lease_expires_at=timestamp(extension.lease_expires_at)
        )

    async def ReleaseSyncRecords(
        self, request: pb.ReleaseSyncRecordsRequest, _context: Context
    ) -> pb.ReleaseSyncRecordsResponse:
        validator = Validator()
        token = validator.uuid("claim_token", request.claim_token)
        mutation = mutation_of(request, validator, token)
        return pb.ReleaseSyncRecordsResponse(
            released=await self._claims.release(mutation, token, scope=current_scope())
        )

    async def ReportSyncRecords(
        self, request: pb.ReportSyncRecordsRequest, _context: Context
    ) -> pb.ReportSyncRecordsResponse:
        validator = Validator()
        token = validator.uuid("claim_token", request.claim_token)
        results = read_results(request.results, validator)
        mutation = mutation_of(request, validator, token, [tuple(result) for result in results])
        outcomes = await self._claims.report(mutation, token, results, scope=current_scope())
        return pb.ReportSyncRecordsResponse(
            outcomes=[outcome_message(result, outcome) for result, outcome in zip(results, outcomes, strict=True)]
        )


def _read_batch_mutation(
    request: pb.StartSyncBatchRequest | pb.CompleteSyncBatchRequest | pb.RetrySyncBatchRequest,
) -> tuple[Mutation, UUID]:
    validator = Validator()
    batch_id = validator.uuid("id", request.id)
    return mutation_of(request, validator, batch_id), batch_id


def _position_bytes(position: BatchPosition) -> bytes:
    return f"{position.day.isoformat()} {position.ispb}".encode()


def _read_position(data: bytes) -> BatchPosition:
    day, ispb = data.decode().split(" ")
    return BatchPosition(date.fromisoformat(day), ispb)
