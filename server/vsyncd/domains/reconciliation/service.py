"""Implements ReconciliationService: validates requests, calls the repositories and builds responses."""

from collections.abc import AsyncIterator

from vsync.v1 import reconciliation_pb2 as pb
from vsync.v1.reconciliation_pb2_grpc import ReconciliationServiceServicer

from vsyncd.core.context import Context
from vsyncd.core.paging import decode_id_token, encode_id_token
from vsyncd.core.scope import current_scope
from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import Validator
from vsyncd.domains.reconciliation import messages
from vsyncd.domains.reconciliation.diff_stream import DiffHandler
from vsyncd.domains.reconciliation.event_streams import EventStreams
from vsyncd.domains.reconciliation.repository import VsyncRepository
from vsyncd.postgres.mutations import mutation_of


class ReconciliationService(ReconciliationServiceServicer):
    """See reconciliation.proto for the methods."""

    def __init__(self, *, repository: VsyncRepository, differences: DiffHandler, events: EventStreams) -> None:
        self._repository = repository
        self._differences = differences
        self._events = events

    async def GetVsync(self, request: pb.GetVsyncRequest, context: Context) -> pb.GetVsyncResponse:
        with Validator() as validator:
            group = messages.read_group(request, "", validator)
        return pb.GetVsyncResponse(
            vsync=messages.vsync_message(await self._repository.vsync(group, scope=current_scope()))
        )

    async def ListVsyncs(self, request: pb.ListVsyncsRequest, context: Context) -> pb.ListVsyncsResponse:
        with Validator() as validator:
            ispb = validator.ispb("ispb", request.ispb)
        vsyncs = await self._repository.vsyncs(ispb, scope=current_scope())
        return pb.ListVsyncsResponse(vsyncs=map(messages.vsync_message, vsyncs))

    async def RecomputeVsync(self, request: pb.RecomputeVsyncRequest, context: Context) -> pb.RecomputeVsyncResponse:
        with Validator() as validator:
            group = messages.read_group(request, "", validator)
        vsync, kept, snapshot_time = await self._repository.recompute(group, scope=current_scope())
        return pb.RecomputeVsyncResponse(
            vsync=messages.vsync_message(vsync),
            kept_vsync=messages.vsync_message(kept),
            agrees=vsync == kept,
            snapshot_time=timestamp(snapshot_time),
        )

    async def RecordVsyncVerification(
        self, request: pb.RecordVsyncVerificationRequest, context: Context
    ) -> pb.RecordVsyncVerificationResponse:
        validator = Validator()
        new = messages.read_verification(request.verification, validator)
        mutation = mutation_of(request, validator, *new)
        verification = await self._repository.record(mutation, new, scope=current_scope())
        return pb.RecordVsyncVerificationResponse(verification=messages.verification_message(verification))

    async def ListVsyncVerifications(
        self, request: pb.ListVsyncVerificationsRequest, context: Context
    ) -> pb.ListVsyncVerificationsResponse:
        with Validator() as validator:
            selected = messages.read_verification_filter(request, validator)
            size = validator.page_size(request.page_size)
        token_scope = ("ListVsyncVerifications", *selected)
        below = decode_id_token(request.page_token, *token_scope)
        found = await self._repository.verifications(selected, limit=size + 1, below=below, scope=current_scope())
        return pb.ListVsyncVerificationsResponse(
            verifications=map(messages.verification_message, found[:size]),
            next_page_token=encode_id_token(found[size - 1].id if len(found) > size else None, *token_scope),
        )

    def DiffCidSet(
        self, requests: AsyncIterator[pb.DiffCidSetRequest], context: Context
    ) -> AsyncIterator[pb.DiffCidSetResponse]:
        return self._differences.responses(requests, current_scope())

    async def ListCidEvents(self, request: pb.ListCidEventsRequest, context: Context) -> pb.ListCidEventsResponse:
        return await self._events.page(request, current_scope())

    def WatchCidEvents(
        self, request: pb.WatchCidEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchCidEventsResponse]:
        return self._events.watch(request, current_scope())
