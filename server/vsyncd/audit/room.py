"""The room, put together."""

from functools import partial

from vsync.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server

from vsyncd.audit.repository import AuditRepository
from vsyncd.audit.service import AuditService
from vsyncd.rooms import Parts, Room


def room(parts: Parts) -> Room:
    """AuditService."""
    repository = AuditRepository(parts.database, parts.mutations)
    service = AuditService(repository, max_response_bytes=parts.settings.grpc_max_response_bytes)
    return Room(register=partial(add_AuditServiceServicer_to_server, service))
