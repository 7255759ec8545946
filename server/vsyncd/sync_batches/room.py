"""The room, put together."""

from functools import partial

from vsync.v1.sync_batch_pb2_grpc import add_SyncBatchServiceServicer_to_server

from vsyncd.rooms import Parts, Room
from vsyncd.sync_batches.claims import SyncClaimRepository
from vsyncd.sync_batches.reports import SyncReportRepository
from vsyncd.sync_batches.repository import SyncBatchRepository
from vsyncd.sync_batches.service import SyncBatchService
from vsyncd.sync_batches.steps import SyncBatchSteps


def room(parts: Parts) -> Room:
    """SyncBatchService."""
    stands_on = (parts.database, parts.mutations)
    service = SyncBatchService(
        SyncBatchRepository(*stands_on),
        SyncBatchSteps(*stands_on),
        SyncClaimRepository(*stands_on),
        SyncReportRepository(*stands_on),
    )
    return Room(register=partial(add_SyncBatchServiceServicer_to_server, service))
