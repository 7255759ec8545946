"""CidService of cid.proto: messages in, records to the repository, messages out."""

from collections.abc import AsyncIterator
from typing import Any, Protocol
from uuid import UUID

from vsync.v1 import cid_pb2 as pb
from vsync.v1.cid_pb2_grpc import CidServiceServicer

from vsyncd.core.fingerprints import fingerprint
from vsyncd.core.paging import decode_token, encode_token
from vsyncd.core.validation import Validator
from vsyncd.domains.cids import messages
from vsyncd.domains.cids.cached_reader import CachedCidReader
from vsyncd.domains.cids.create_batcher import CreateBatcher
from vsyncd.domains.cids.export_stream import ExportStream
from vsyncd.domains.cids.import_stream import ImportStream
from vsyncd.domains.cids.repository import LEAST_ID, CidRepository, not_found
from vsyncd.postgres.mutations import Mutation

Context = Any  # grpc.aio.ServicerContext, of no interest here: vsyncd.core.context has what a service needs


class CidService(CidServiceServicer):
    """The participant's content identifiers."""

    def __init__(
        self,
        *,
        repository: CidRepository,
        creator: CreateBatcher,
        reader: CachedCidReader,
        imports: ImportStream,
        exports: ExportStream,
    ) -> None:
        self._repository = repository
        self._creator = creator
        self._reader = reader
        self._imports = imports
        self._exports = exports

    async def CreateCid(self, request: pb.CreateCidRequest, context: Context) -> pb.CreateCidResponse:
        """See cid.proto."""
        validator = Validator()
        new = messages.read_new_cid(request.record, "record.", validator)
        request_id = validator.optional_uuid("request_id", request.request_id)
        validator.raise_any()
        mutation = Mutation(
            request_id=request_id,
            fingerprint=fingerprint(*new) if request_id else b"",
            validate_only=request.validate_only,
            key_value=new.key_value,
            cid=new.cid,
        )
        record = await self._creator.create(mutation, new)
        return pb.CreateCidResponse(record=messages.record_message(record))

    async def BatchCreateCids(self, request: pb.BatchCreateCidsRequest, context: Context) -> pb.BatchCreateCidsResponse:
        """See cid.proto."""
        validator = Validator()
        news = []
        if validator.batch("records", request.records):
            news = [
                messages.read_new_cid(record, f"records[{index}].", validator)
                for index, record in enumerate(request.records)
            ]
            validator.distinct("records", [new.cid for new in news], "stands earlier in the request", ".cid")
            keys = [(new.key_value, new.ispb) if new.key_value else "" for new in news]
            validator.distinct("records", keys, "stands earlier at this ispb", ".key_value")
        mutation = _mutation(request, validator, *news)
        records = await self._repository.create_batch(mutation, news)
        return pb.BatchCreateCidsResponse(records=map(messages.record_message, records))

    def ImportCids(
        self, requests: AsyncIterator[pb.ImportCidsRequest], context: Context
    ) -> AsyncIterator[pb.ImportCidsResponse]:
        """See cid.proto."""
        return self._imports.responses(requests)

    async def GetCid(self, request: pb.GetCidRequest, context: Context) -> pb.GetCidResponse:
        """See cid.proto."""
        validator = Validator()
        selector = messages.read_selector(request, validator)
        validator.raise_any()
        record = await self._reader.get(selector)
        if record is None:
            raise not_found()
        return pb.GetCidResponse(record=record)

    async def BatchGetCids(self, request: pb.BatchGetCidsRequest, context: Context) -> pb.BatchGetCidsResponse:
        """See cid.proto."""
        validator = Validator()
        cids = validator.cids("cids", request.cids)
        validator.raise_any()
        found = await self._reader.get_many(cids)
        return pb.BatchGetCidsResponse(
            records=[record for record in found if record is not None],
            missing=[cid.hex() for cid, record in zip(cids, found, strict=True) if record is None],
        )

    async def ListCids(self, request: pb.ListCidsRequest, context: Context) -> pb.ListCidsResponse:
        """See cid.proto."""
        validator = Validator()
        selection = messages.read_filter(request.filter, validator)
        size = validator.page_size(request.page_size)
        validator.raise_any()
        scope = ("ListCids", *selection)
        after = UUID(bytes=decode_token(request.page_token, *scope)) if request.page_token else LEAST_ID
        page = await self._repository.page(selection, after=after, size=size)
        return pb.ListCidsResponse(
            records=map(messages.record_message, page.records),
            next_page_token=encode_token(page.next_after.bytes, *scope) if page.next_after else "",
        )

    def ExportCids(self, request: pb.ExportCidsRequest, context: Context) -> AsyncIterator[pb.ExportCidsResponse]:
        """See cid.proto."""
        return self._exports.responses(request)

    async def CountCids(self, request: pb.CountCidsRequest, context: Context) -> pb.CountCidsResponse:
        """See cid.proto."""
        validator = Validator()
        ispb = validator.ispb("ispb", request.ispb, optional=True)
        validator.raise_any()
        counts = await self._repository.count(ispb or None)
        return pb.CountCidsResponse(
            counts=[pb.CidCount(key_type=row[0], sync_status=row[1], count=row[2]) for row in counts],  # type: ignore[arg-type]  # enums' numbers
            total=sum(row[2] for row in counts),
        )

    async def UpdateCid(self, request: pb.UpdateCidRequest, context: Context) -> pb.UpdateCidResponse:
        """See cid.proto."""
        validator = Validator()
        selector = messages.read_selector(request, validator)
        changes = messages.read_changes(request, validator)
        revision = messages.read_revision(request, validator)
        mutation = _mutation(request, validator, selector, changes, revision)
        record = await self._repository.update(mutation, selector, changes, revision=revision)
        return pb.UpdateCidResponse(record=messages.record_message(record))

    async def UpdateSyncStatus(
        self, request: pb.UpdateSyncStatusRequest, context: Context
    ) -> pb.UpdateSyncStatusResponse:
        """See cid.proto."""
        validator = Validator()
        cids = validator.cids("cids", request.cids)
        status = validator.choice("sync_status", request.sync_status, messages.SYNC_STATUSES)
        messages.read_error(status, request.error, "error", validator)
        mutation = _mutation(request, validator, cids, status, request.error)
        updated, missing = await self._repository.update_sync_status(
            mutation, cids, sync_status=status, error=request.error or None
        )
        return pb.UpdateSyncStatusResponse(updated=updated, missing=[cid.hex() for cid in missing])

    async def DeleteCid(self, request: pb.DeleteCidRequest, context: Context) -> pb.DeleteCidResponse:
        """See cid.proto."""
        validator = Validator()
        selector = messages.read_selector(request, validator)
        revision = messages.read_revision(request, validator)
        mutation = _mutation(request, validator, selector, revision)
        await self._repository.delete(mutation, selector, revision=revision)
        return pb.DeleteCidResponse()

    async def BatchDeleteCids(self, request: pb.BatchDeleteCidsRequest, context: Context) -> pb.BatchDeleteCidsResponse:
        """See cid.proto."""
        validator = Validator()
        cids = validator.cids("cids", request.cids)
        mutation = _mutation(request, validator, cids)
        missing = await self._repository.delete_batch(mutation, cids)
        return pb.BatchDeleteCidsResponse(missing=[cid.hex() for cid in missing])


class _Request(Protocol):
    """What every mutation's request has."""

    request_id: str
    validate_only: bool


def _mutation(request: _Request, validator: Validator, *content: object) -> Mutation:
    """The frame of a mutation from its request; raises what was found bad until here."""
    request_id = validator.optional_uuid("request_id", request.request_id)
    validator.raise_any()
    return Mutation(
        request_id=request_id,
        fingerprint=fingerprint(*content) if request_id else b"",
        validate_only=request.validate_only,
    )
