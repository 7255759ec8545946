"""Implements IocService: validates requests, calls the repository and builds responses."""

from typing import Final

from vsync.iocs.v1 import ioc_pb2 as pb
from vsync.iocs.v1.ioc_pb2_grpc import IocServiceServicer

from vsyncd.core.context import Context
from vsyncd.core.tenants import Tenant
from vsyncd.core.validation import Validator
from vsyncd.domains.iocs import messages
from vsyncd.domains.iocs.records import IocKey, IocPage
from vsyncd.domains.iocs.repository import IocRepository
from vsyncd.postgres.mutations import mutation_of
from vsyncd.postgres.tenancy import Tenancy

_PAGE_FRAME_BYTES: Final = 4_096
_ELEMENT_FRAME_BYTES: Final = 8


class IocService(IocServiceServicer):
    """See ioc.proto for the methods."""

    def __init__(self, repository: IocRepository, tenancy: Tenancy, *, max_response_bytes: int) -> None:
        self._repository = repository
        self._tenancy = tenancy
        self._max_response_bytes = max_response_bytes

    async def PutIoc(self, request: pb.PutIocRequest, context: Context) -> pb.PutIocResponse:
        validator = Validator()
        new = messages.read_ioc(validator, request.ioc, "ioc.")
        tenant = await self._tenancy.current()
        mutation = mutation_of(request, validator, *new, tenant=tenant)
        answer = await self._repository.put(mutation, [new], tenant=tenant)
        return messages.put_message(new, answer, tenant)

    async def BatchPutIocs(self, request: pb.BatchPutIocsRequest, context: Context) -> pb.BatchPutIocsResponse:
        validator = Validator()
        new = []
        if validator.batch("iocs", request.iocs):
            new = [messages.read_ioc(validator, each, f"iocs[{index}].") for index, each in enumerate(request.iocs)]
            keys = [each[:2] if each.value else None for each in new]
            validator.distinct("iocs", keys, "the same IOC appears earlier in the request", ".value")
        tenant = await self._tenancy.current()
        mutation = mutation_of(request, validator, *map(tuple, new), tenant=tenant)
        answer = await self._repository.put(mutation, new, tenant=tenant, is_batch=True)
        return pb.BatchPutIocsResponse(results=messages.result_messages(new, answer))

    async def GetIoc(self, request: pb.GetIocRequest, context: Context) -> pb.GetIocResponse:
        with Validator() as validator:
            key = messages.read_key(validator, request)
        tenant = await self._tenancy.current()
        return pb.GetIocResponse(ioc=messages.ioc_message(await self._repository.get(key, tenant=tenant), tenant))

    async def CheckIocs(self, request: pb.CheckIocsRequest, context: Context) -> pb.CheckIocsResponse:
        with Validator() as validator:
            values = messages.read_values(validator, request.type, request.values)
        tenant = await self._tenancy.current()
        known = await self._repository.check(request.type, values, tenant=tenant)
        response = pb.CheckIocsResponse()
        for value in values:
            confidence = known.get(value)
            if confidence is None:
                response.results.add()
            else:
                response.results.add(known=True, confidence=confidence)
        return response

    async def ListIocs(self, request: pb.ListIocsRequest, context: Context) -> pb.ListIocsResponse:
        """A page ends early where the response would become too large."""
        with Validator() as validator:
            wanted = messages.read_filter(validator, request)
            size = validator.page_size(request.page_size)
        tenant = await self._tenancy.current()
        after = messages.decode_key(request.page_token, tenant, *wanted)
        page = await self._repository.page(wanted, tenant=tenant, after=after, size=size)
        iocs, next_after = self._fitting(page, tenant)
        return pb.ListIocsResponse(iocs=iocs, next_page_token=messages.encode_key(next_after, tenant, *wanted))

    async def DeleteIoc(self, request: pb.DeleteIocRequest, context: Context) -> pb.DeleteIocResponse:
        validator = Validator()
        key = messages.read_key(validator, request)
        revision = messages.read_revision(validator, request)
        tenant = await self._tenancy.current()
        mutation = mutation_of(request, validator, *key, revision, tenant=tenant)
        await self._repository.delete(mutation, key, revision=revision, tenant=tenant)
        return pb.DeleteIocResponse()

    def _fitting(self, page: IocPage, tenant: Tenant) -> tuple[list[pb.Ioc], IocKey | None]:
        """Returns the messages of the first IOCs that fit into a response, and where the next page begins."""
        found: list[pb.Ioc] = []
        free = self._max_response_bytes - _PAGE_FRAME_BYTES
        for ioc in page.iocs:
            message = messages.ioc_message(ioc, tenant)
            free -= message.ByteSize() + _ELEMENT_FRAME_BYTES
            if free < 0 and found:
                last = found[-1]
                return found, IocKey(last.type, last.value)
            found.append(message)
        return found, page.next_after
