"""The definition of the domain `sync_batches`."""

from functools import partial
from typing import Final

from vsync.v1.sync_batch_pb2_grpc import add_SyncBatchServiceServicer_to_server

from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain
from vsyncd.domains.sync_batches.claims import SyncClaimRepository
from vsyncd.domains.sync_batches.repository import SyncBatchRepository
from vsyncd.domains.sync_batches.service import SyncBatchService
from vsyncd.domains.sync_batches.status import BatchStatusReader
from vsyncd.domains.sync_batches.transitions import SyncBatchTransitions
from vsyncd.jobs.runner import Job
from vsyncd.observability.sync_metrics import MEASURE_INTERVAL_S


def _build(dependencies: Dependencies) -> BuiltDomain:
    database, mutations = dependencies.database, dependencies.mutations
    repository = SyncBatchRepository(database, mutations)
    service = SyncBatchService(
        repository,
        SyncBatchTransitions(database, mutations),
        SyncClaimRepository(database, mutations),
    )
    return BuiltDomain(
        registrations=(partial(add_SyncBatchServiceServicer_to_server, service),),
        status={"batches": BatchStatusReader(database.schema).read},
        jobs=(Job(name="measure batches", interval=MEASURE_INTERVAL_S, work=repository.measure),),
    )


DOMAIN: Final = Domain(services=("vsync.v1.SyncBatchService",), build=_build, changes_cached_records=True)
