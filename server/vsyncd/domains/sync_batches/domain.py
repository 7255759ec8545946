"""Builds the domain of synchronization batches."""

from functools import partial

from vsync.v1.sync_batch_pb2_grpc import add_SyncBatchServiceServicer_to_server

from vsyncd.domains.domain import Dependencies, Domain
from vsyncd.domains.sync_batches.claims import SyncClaimRepository
from vsyncd.domains.sync_batches.reports import SyncReportRepository
from vsyncd.domains.sync_batches.repository import SyncBatchRepository
from vsyncd.domains.sync_batches.service import SyncBatchService
from vsyncd.domains.sync_batches.transitions import SyncBatchTransitions


def domain(dependencies: Dependencies) -> Domain:
    """Returns SyncBatchService."""
    database, mutations = dependencies.database, dependencies.mutations
    service = SyncBatchService(
        SyncBatchRepository(database, mutations),
        SyncBatchTransitions(database, mutations),
        SyncClaimRepository(database, mutations),
        SyncReportRepository(database, mutations),
    )
    return Domain(register=partial(add_SyncBatchServiceServicer_to_server, service))
