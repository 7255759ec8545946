"""The room, put together."""

from functools import partial

from vsync.v1.reconciliation_pb2_grpc import add_ReconciliationServiceServicer_to_server

from vsyncd.reconciliation.comparisons import Comparer
from vsyncd.reconciliation.diff_stream import DiffStream
from vsyncd.reconciliation.event_streams import EventStreams
from vsyncd.reconciliation.feed import FeedRepository
from vsyncd.reconciliation.repository import VsyncRepository
from vsyncd.reconciliation.scans import Scanner
from vsyncd.reconciliation.service import ReconciliationService
from vsyncd.reconciliation.snapshots import Snapshots
from vsyncd.rooms import Parts, Room


def room(parts: Parts) -> Room:
    """ReconciliationService."""
    settings, schema = parts.settings, parts.database.schema
    snapshots = Snapshots(
        parts.database, most=settings.reconciliation_max_streams, max_duration=settings.reconciliation_max_duration
    )
    service = ReconciliationService(
        repository=VsyncRepository(parts.database, parts.mutations),
        scanner=Scanner(snapshots, schema=schema),
        differences=DiffStream(
            snapshots,
            Comparer(snapshots, schema=schema),
            folder=settings.spill_dir,
            most=settings.reconciliation_max_cids,
        ),
        events=EventStreams(FeedRepository(parts.database)),
    )
    return Room(register=partial(add_ReconciliationServiceServicer_to_server, service))
