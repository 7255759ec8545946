"""The definition of the domain `reconciliation`."""

from functools import partial
from typing import Final

from vsync.v1.reconciliation_pb2_grpc import add_ReconciliationServiceServicer_to_server

from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain
from vsyncd.domains.reconciliation.comparison import Comparer
from vsyncd.domains.reconciliation.diff_stream import DiffHandler
from vsyncd.domains.reconciliation.event_repository import EventRepository
from vsyncd.domains.reconciliation.event_streams import EventStreams
from vsyncd.domains.reconciliation.repository import VsyncRepository
from vsyncd.domains.reconciliation.service import ReconciliationService
from vsyncd.domains.reconciliation.status import VsyncStatusReader
from vsyncd.jobs.runner import Job
from vsyncd.observability.sync_metrics import MEASURE_INTERVAL_S
from vsyncd.postgres.snapshots import SnapshotReader


def _build(dependencies: Dependencies) -> BuiltDomain:
    settings, database = dependencies.settings, dependencies.database
    snapshots = SnapshotReader(
        database,
        "comparisons and scans",
        max_concurrent=settings.reconciliation_max_streams,
        max_duration=settings.reconciliation_max_duration,
    )
    repository = VsyncRepository(database, dependencies.mutations, snapshots)
    service = ReconciliationService(
        repository=repository,
        differences=DiffHandler(
            snapshots,
            Comparer(snapshots, schema=database.schema),
            folder=settings.spill_dir,
            max_cids=settings.reconciliation_max_cids,
        ),
        events=EventStreams(EventRepository(database)),
    )
    return BuiltDomain(
        registrations=(partial(add_ReconciliationServiceServicer_to_server, service),),
        status={"vsyncs": VsyncStatusReader(database.schema).read},
        jobs=(Job(name="measure verdicts", interval=MEASURE_INTERVAL_S, work=repository.measure),),
    )


DOMAIN: Final = Domain(services=("vsync.v1.ReconciliationService",), build=_build)
