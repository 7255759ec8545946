"""Builds the domain."""

from functools import partial

from vsync.v1.sync_batch_pb2_grpc import add_SyncBatchServiceServicer_to_server

from vsyncd.domains.domain import Dependencies, Domain
from vsyncd.domains.sync_batches.claims import SyncClaimRepository
from vsyncd.domains.sync_batches.reports import SyncReportRepository
from vsyncd.domains.sync_batches.repository import SyncBatchRepository
from vsyncd.domains.sync_batches.service import SyncBatchService
from vsyncd.domains.sync_batches.transitions import SyncBatchTransitions


def domain(parts: Dependencies) -> Domain:
    """SyncBatchService."""
    stands_on = (parts.database, parts.mutations)
    service = SyncBatchService(
        SyncBatchRepository(*stands_on),
        SyncBatchTransitions(*stands_on),
        SyncClaimRepository(*stands_on),
        SyncReportRepository(*stands_on),
    )
    return Domain(register=partial(add_SyncBatchServiceServicer_to_server, service))
