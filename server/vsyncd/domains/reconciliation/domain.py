"""The definition of the domain `reconciliation`."""

from functools import partial
from typing import Final

from vsync.v1.reconciliation_pb2_grpc import add_ReconciliationServiceServicer_to_server

from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain
from vsyncd.domains.reconciliation.comparisons import Comparer
from vsyncd.domains.reconciliation.diff_stream import DiffStream
from vsyncd.domains.reconciliation.event_streams import EventStreams
from vsyncd.domains.reconciliation.feed import FeedRepository
from vsyncd.domains.reconciliation.repository import VsyncRepository
from vsyncd.domains.reconciliation.scans import Scanner
from vsyncd.domains.reconciliation.service import ReconciliationService
from vsyncd.domains.reconciliation.snapshots import ReadSnapshots


def _build(dependencies: Dependencies) -> BuiltDomain:
    """ReconciliationService."""
    settings, schema = dependencies.settings, dependencies.database.schema
    snapshots = ReadSnapshots(
        dependencies.database,
        most=settings.reconciliation_max_streams,
        max_duration=settings.reconciliation_max_duration,
    )
    service = ReconciliationService(
        repository=VsyncRepository(dependencies.database, dependencies.mutations),
        scanner=Scanner(snapshots, schema=schema),
        differences=DiffStream(
            snapshots,
            Comparer(snapshots, schema=schema),
            folder=settings.spill_dir,
            most=settings.reconciliation_max_cids,
        ),
        events=EventStreams(FeedRepository(dependencies.database)),
    )
    return BuiltDomain(registrations=(partial(add_ReconciliationServiceServicer_to_server, service),))


DOMAIN: Final = Domain(services=("vsync.v1.ReconciliationService",), build=_build)
