"""The definition of the domain `audit`."""

from functools import partial
from typing import Final

from vsync.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server

from vsyncd.domains.audit.repository import AuditRepository
from vsyncd.domains.audit.service import AuditService
from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain

_WITH_CID_EVENTS: Final = frozenset({"cids", "sync_batches", "reconciliation"})


def _build(dependencies: Dependencies) -> BuiltDomain:
    # The table of CID events exists only with the domains of the migration set vsync.
    with_cid_events = not _WITH_CID_EVENTS.isdisjoint(dependencies.domains)
    repository = AuditRepository(dependencies.database, dependencies.mutations, with_cid_events=with_cid_events)
    service = AuditService(repository, max_response_bytes=dependencies.settings.grpc_max_response_bytes)
    return BuiltDomain(registrations=(partial(add_AuditServiceServicer_to_server, service),))


DOMAIN: Final = Domain(services=("vsync.v1.AuditService",), build=_build)
