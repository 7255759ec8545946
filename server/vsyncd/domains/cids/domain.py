"""The definition of the domain `cids`."""

from functools import partial
from typing import Final

from vsync.v1.cid_pb2_grpc import add_CidServiceServicer_to_server

from vsyncd.cache.wiring import drop_changes
from vsyncd.domains.cids.exports import Exporter
from vsyncd.domains.cids.import_repository import ImportRepository
from vsyncd.domains.cids.import_stream import ImportHandler
from vsyncd.domains.cids.reader import CidReader
from vsyncd.domains.cids.repository import CidRepository
from vsyncd.domains.cids.service import CidService
from vsyncd.domains.cids.status import ImportStatusReader
from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain
from vsyncd.jobs.runner import Job
from vsyncd.observability.sync_metrics import MEASURE_INTERVAL_S
from vsyncd.postgres.snapshots import SnapshotReader

# Each statement that changes cids adds delta rows to counts and VSyncs. This job folds them into sums.
_FOLD_INTERVAL_S: Final = 1.0
_DROP_CHANGES_INTERVAL_S: Final = 60.0


def _build(dependencies: Dependencies) -> BuiltDomain:
    settings, database = dependencies.settings, dependencies.database
    repository = CidRepository(database, dependencies.mutations)
    snapshots = SnapshotReader(
        database, "exports", max_concurrent=settings.export_max_streams, max_duration=settings.export_max_duration
    )
    service = CidService(
        repository=repository,
        reader=CidReader(repository, dependencies.cache.records if dependencies.cache else None),
        imports=ImportHandler(ImportRepository(database)),
        exports=Exporter(snapshots, schema=database.schema),
    )
    return BuiltDomain(
        registrations=(partial(add_CidServiceServicer_to_server, service),),
        jobs=(
            Job(name="measure records", interval=MEASURE_INTERVAL_S, work=repository.measure),
            Job(name="fold totals", interval=_FOLD_INTERVAL_S, work=repository.fold_totals),
            Job(
                name="drop cache changes",
                interval=_DROP_CHANGES_INTERVAL_S,
                work=partial(drop_changes, database),
                exclusive=True,
            ),
        ),
        status={"imports": ImportStatusReader(database.schema).read},
    )


DOMAIN: Final = Domain(services=("vsync.v1.CidService",), build=_build, changes_cached_records=True)
