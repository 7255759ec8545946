"""Builds the domain."""

from functools import partial

from vsync.v1.reconciliation_pb2_grpc import add_ReconciliationServiceServicer_to_server

from vsyncd.domains.domain import Dependencies, Domain
from vsyncd.domains.reconciliation.comparisons import Comparer
from vsyncd.domains.reconciliation.diff_stream import DiffStream
from vsyncd.domains.reconciliation.event_streams import EventStreams
from vsyncd.domains.reconciliation.feed import FeedRepository
from vsyncd.domains.reconciliation.repository import VsyncRepository
from vsyncd.domains.reconciliation.scans import Scanner
from vsyncd.domains.reconciliation.service import ReconciliationService
from vsyncd.domains.reconciliation.snapshots import ReadSnapshots


def domain(parts: Dependencies) -> Domain:
    """ReconciliationService."""
    settings, schema = parts.settings, parts.database.schema
    snapshots = ReadSnapshots(
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
    return Domain(register=partial(add_ReconciliationServiceServicer_to_server, service))
