"""The definition of the domain `audit`."""

from functools import partial
from typing import Final

from vsync.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server

from vsyncd.domains.audit.repository import AuditRepository
from vsyncd.domains.audit.service import AuditService
from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain


def _build(dependencies: Dependencies) -> BuiltDomain:
    repository = AuditRepository(dependencies.database, dependencies.mutations)
    service = AuditService(repository, max_response_bytes=dependencies.settings.grpc_max_response_bytes)
    return BuiltDomain(registrations=(partial(add_AuditServiceServicer_to_server, service),))


DOMAIN: Final = Domain(services=("vsync.v1.AuditService",), build=_build)
