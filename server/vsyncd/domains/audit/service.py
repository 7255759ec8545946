"""Implements AuditService: validates requests, calls the repository and builds responses."""

from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

from vsync.v1 import audit_pb2, audit_pb2_grpc

from vsyncd.core.context import Context, current_context
from vsyncd.core.paging import decode_page_token, encode_page_token
from vsyncd.core.scope import current_scope
from vsyncd.core.validation import Validator
from vsyncd.domains.audit.messages import ReservedActions, message_of, read_entries, read_entry, read_filter
from vsyncd.domains.audit.records import Entry, NewEntry
from vsyncd.domains.audit.repository import AuditRepository
from vsyncd.postgres.mutations import mutation_of

_DEFAULT_RESPONSE_BYTES: Final = 4 * 1024**2
# The service adds an id and a time to each entry of an answer, and the framing of all fields.
_ADDED_BYTES: Final = 72
_PAGE_FRAME_BYTES: Final = 256


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """Appends entries of other services, and reads the trail. See audit.proto for the methods."""

    def __init__(
        self,
        repository: AuditRepository,
        *,
        served_services: Iterable[str] = (),
        max_response_bytes: int = _DEFAULT_RESPONSE_BYTES,
    ) -> None:
        self._reserved = ReservedActions(served_services)
        self._repository = repository
        self._max_response_bytes = max_response_bytes

    async def AppendAuditLog(
        self, request: audit_pb2.AppendAuditLogRequest, context: Context
    ) -> audit_pb2.AppendAuditLogResponse:
        validator = Validator()
        entry = read_entry(validator, "log", request.log, self._reserved)
        mutation = mutation_of(request, validator, tuple(entry))
        (appended,) = await self._repository.append(mutation, [entry], scope=current_scope())
        return audit_pb2.AppendAuditLogResponse(log=message_of(appended))

    async def BatchAppendAuditLogs(
        self, request: audit_pb2.BatchAppendAuditLogsRequest, context: Context
    ) -> audit_pb2.BatchAppendAuditLogsResponse:
        """Entries whose response would be too large are not appended."""
        validator = Validator()
        entries = read_entries(validator, "logs", request.logs, self._reserved)
        if _answer_bytes(request, entries) > self._max_response_bytes:
            validator.add("logs", "are together larger than a response may be; send them in several requests")
        mutation = mutation_of(request, validator, *map(tuple, entries))
        appended = await self._repository.append(mutation, entries, scope=current_scope())
        return audit_pb2.BatchAppendAuditLogsResponse(logs=map(message_of, appended))

    async def GetAuditLog(
        self, request: audit_pb2.GetAuditLogRequest, context: Context
    ) -> audit_pb2.GetAuditLogResponse:
        with Validator() as validator:
            identifier = validator.uuid("id", request.id)
        return audit_pb2.GetAuditLogResponse(
            log=message_of(await self._repository.get(identifier, scope=current_scope()))
        )

    async def ListAuditLogs(
        self, request: audit_pb2.ListAuditLogsRequest, context: Context
    ) -> audit_pb2.ListAuditLogsResponse:
        """A page ends early where the response would become too large."""
        with Validator() as validator:
            wanted = read_filter(validator, request)
            size = validator.page_size(request.page_size)
        token_scope = ("AuditService/ListAuditLogs", *wanted)
        below = UUID(bytes=decode_page_token(request.page_token, *token_scope)) if request.page_token else None
        page = await self._repository.page(wanted, size=size, below=below, scope=current_scope())
        logs = self._fitting(page.entries)
        next_below = page.next_below if len(logs) == len(page.entries) else page.entries[len(logs) - 1].id
        return audit_pb2.ListAuditLogsResponse(
            logs=logs, next_page_token=encode_page_token(next_below.bytes, *token_scope) if next_below else ""
        )

    def _fitting(self, entries: Sequence[Entry]) -> list[audit_pb2.AuditLog]:
        """Returns the messages of the first entries that fit into a response, at least one."""
        logs: list[audit_pb2.AuditLog] = []
        free = self._max_response_bytes - _PAGE_FRAME_BYTES
        for entry in entries:
            log = message_of(entry)
            free -= log.ByteSize() + 8
            if free < 0 and logs:
                break
            logs.append(log)
        return logs


def _answer_bytes(request: audit_pb2.BatchAppendAuditLogsRequest, entries: Sequence[NewEntry]) -> int:
    """Returns the maximum size of the response: the entries, and what the service and the call add to them."""
    call = current_context()
    added = _ADDED_BYTES + len(call.correlation_id) + 2 * len(call.principal.encode())
    # The actor is in two fields, and a normalized text may be longer than the sent one.
    texts = sum(2 * _length(entry.on_behalf_of) + _length(entry.action) + _length(entry.resource) for entry in entries)
    return request.ByteSize() + added * len(request.logs) + texts


def _length(text: str | None) -> int:
    return len(text.encode()) if text else 0
