"""Builds the domain."""

from functools import partial

from vsync.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server

from vsyncd.domains.audit.repository import AuditRepository
from vsyncd.domains.audit.service import AuditService
from vsyncd.domains.domain import Dependencies, Domain


def domain(parts: Dependencies) -> Domain:
    """Builds AuditService."""
    repository = AuditRepository(parts.database, parts.mutations)
    service = AuditService(repository, max_response_bytes=parts.settings.grpc_max_response_bytes)
    return Domain(register=partial(add_AuditServiceServicer_to_server, service))
