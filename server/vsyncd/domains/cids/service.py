"""Implements CidService of cid.proto: validates requests, calls the repository and builds responses."""

from collections.abc import AsyncIterator

from vsync.v1 import cid_pb2 as pb
from vsync.v1.cid_pb2_grpc import CidServiceServicer

from vsyncd.core.context import Context
from vsyncd.core.ids import MIN_ID
from vsyncd.core.paging import decode_id_token, encode_id_token
from vsyncd.core.scope import current_scope
from vsyncd.core.validation import Validator
from vsyncd.domains.cids import messages
from vsyncd.domains.cids.exports import Exporter
from vsyncd.domains.cids.import_stream import ImportHandler
from vsyncd.domains.cids.reader import CidReader
from vsyncd.domains.cids.records import single_ispb
from vsyncd.domains.cids.repository import CidRepository, not_found
from vsyncd.postgres.mutations import mutation_of


class CidService(CidServiceServicer):
    """See cid.proto for the methods."""

    def __init__(
        self,
        *,
        repository: CidRepository,
        reader: CidReader,
        imports: ImportHandler,
        exports: Exporter,
    ) -> None:
        self._repository = repository
        self._reader = reader
        self._imports = imports
        self._exports = exports

    async def CreateCid(self, request: pb.CreateCidRequest, context: Context) -> pb.CreateCidResponse:
        validator = Validator()
        new = messages.read_new_cid(request.record, "record.", validator)
        mutation = mutation_of(request, validator, *new, ispb=new.ispb, key_value=new.key_value, cid=new.cid)
        record = await self._repository.create(mutation, new, scope=current_scope())
        return pb.CreateCidResponse(record=messages.record_message(record))

    async def BatchCreateCids(self, request: pb.BatchCreateCidsRequest, context: Context) -> pb.BatchCreateCidsResponse:
        validator = Validator()
        new_cids = []
        if validator.batch("records", request.records):
            new_cids = [
                messages.read_new_cid(record, f"records[{index}].", validator)
                for index, record in enumerate(request.records)
            ]
            validator.distinct(
                "records", [new.cid for new in new_cids], "the same cid appears earlier in the request", ".cid"
            )
            keys = [(new.key_value, new.ispb) if new.key_value else "" for new in new_cids]
            validator.distinct("records", keys, "the same key and ispb appear earlier in the request", ".key_value")
        mutation = mutation_of(request, validator, *new_cids, ispb=single_ispb(new.ispb for new in new_cids))
        records = await self._repository.create_batch(mutation, new_cids, scope=current_scope())
        return pb.BatchCreateCidsResponse(records=map(messages.record_message, records))

    def ImportCids(
        self, requests: AsyncIterator[pb.ImportCidsRequest], context: Context
    ) -> AsyncIterator[pb.ImportCidsResponse]:
        return self._imports.responses(requests, current_scope())

    async def GetCid(self, request: pb.GetCidRequest, context: Context) -> pb.GetCidResponse:
        with Validator() as validator:
            selector = messages.read_selector(request, validator)
        record = await self._reader.get(selector, scope=current_scope())
        if record is None:
            raise not_found()
        return pb.GetCidResponse(record=record)

    async def BatchGetCids(self, request: pb.BatchGetCidsRequest, context: Context) -> pb.BatchGetCidsResponse:
        with Validator() as validator:
            cids = validator.cids("cids", request.cids)
        found = await self._reader.get_many(cids, scope=current_scope())
        return pb.BatchGetCidsResponse(
            records=[record for record in found if record is not None],
            missing=[cid.hex() for cid, record in zip(cids, found, strict=True) if record is None],
        )

    async def ListCids(self, request: pb.ListCidsRequest, context: Context) -> pb.ListCidsResponse:
        with Validator() as validator:
            cid_filter = messages.read_filter(request.filter, validator)
            size = validator.page_size(request.page_size)
        token_scope = ("ListCids", *cid_filter)
        after = decode_id_token(request.page_token, *token_scope) or MIN_ID
        records, next_after = await self._repository.page(cid_filter, after=after, size=size, scope=current_scope())
        return pb.ListCidsResponse(
            records=map(messages.record_message, records),
            next_page_token=encode_id_token(next_after, *token_scope),
        )

    def ExportCids(self, request: pb.ExportCidsRequest, context: Context) -> AsyncIterator[pb.ExportCidsResponse]:
        return self._exports.responses(request, current_scope())

    async def CountCids(self, request: pb.CountCidsRequest, context: Context) -> pb.CountCidsResponse:
        with Validator() as validator:
            ispb = validator.ispb("ispb", request.ispb, optional=True)
        counts = await self._repository.count(ispb or None, scope=current_scope())
        return pb.CountCidsResponse(
            counts=[pb.CidCount(key_type=row[0], sync_status=row[1], count=row[2]) for row in counts],  # type: ignore[arg-type]  # enums' numbers
            total=sum(row[2] for row in counts),
        )

    async def UpdateCid(self, request: pb.UpdateCidRequest, context: Context) -> pb.UpdateCidResponse:
        validator = Validator()
        selector = messages.read_selector(request, validator)
        changes = messages.read_changes(request, validator)
        revision = messages.read_revision(request, validator)
        mutation = mutation_of(request, validator, selector, changes, revision)
        record = await self._repository.update(mutation, selector, changes, revision=revision, scope=current_scope())
        return pb.UpdateCidResponse(record=messages.record_message(record))

    async def UpdateSyncStatus(
        self, request: pb.UpdateSyncStatusRequest, context: Context
    ) -> pb.UpdateSyncStatusResponse:
        validator = Validator()
        cids = validator.cids("cids", request.cids)
        status = validator.choice("sync_status", request.sync_status, messages.SYNC_STATUSES)
        messages.read_error(status, request.error, "error", validator)
        mutation = mutation_of(request, validator, cids, status, request.error)
        updated, missing = await self._repository.update_sync_status(
            mutation, cids, sync_status=status, error=request.error or None, scope=current_scope()
        )
        return pb.UpdateSyncStatusResponse(updated=updated, missing=[cid.hex() for cid in missing])

    async def DeleteCid(self, request: pb.DeleteCidRequest, context: Context) -> pb.DeleteCidResponse:
        validator = Validator()
        selector = messages.read_selector(request, validator)
        revision = messages.read_revision(request, validator)
        mutation = mutation_of(request, validator, selector, revision)
        await self._repository.delete(mutation, selector, revision=revision, scope=current_scope())
        return pb.DeleteCidResponse()

    async def BatchDeleteCids(self, request: pb.BatchDeleteCidsRequest, context: Context) -> pb.BatchDeleteCidsResponse:
        validator = Validator()
        cids = validator.cids("cids", request.cids)
        mutation = mutation_of(request, validator, cids)
        missing = await self._repository.delete_batch(mutation, cids, scope=current_scope())
        return pb.BatchDeleteCidsResponse(missing=[cid.hex() for cid in missing])
