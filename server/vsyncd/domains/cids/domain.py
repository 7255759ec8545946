"""The definition of the domain `cids`."""

from functools import partial
from typing import Final

from vsync.v1.cid_pb2_grpc import add_CidServiceServicer_to_server

from vsyncd.domains.cids.cached_reader import CachedCidReader
from vsyncd.domains.cids.create_batcher import CreateBatcher
from vsyncd.domains.cids.export_repository import ExportRepository
from vsyncd.domains.cids.export_stream import ExportStream
from vsyncd.domains.cids.import_repository import ImportRepository
from vsyncd.domains.cids.import_stream import ImportStream
from vsyncd.domains.cids.read_batcher import ReadBatcher
from vsyncd.domains.cids.repository import CidRepository
from vsyncd.domains.cids.service import CidService
from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain
from vsyncd.jobs.runner import Job

# Seconds. Until they are summed up, counts and VSyncs add a row for each statement that changed cids.
_FOLD_INTERVAL: Final = 1.0


def _build(dependencies: Dependencies) -> BuiltDomain:
    """CidService, and the summing up of its counts."""
    repository = CidRepository(dependencies.database, dependencies.mutations)
    exports = ExportRepository(dependencies.database, most=dependencies.settings.export_max_streams)
    service = CidService(
        repository=repository,
        creator=CreateBatcher(dependencies.database, repository),
        reader=CachedCidReader(repository, ReadBatcher(repository), dependencies.cache),
        imports=ImportStream(ImportRepository(dependencies.database)),
        exports=ExportStream(exports, max_duration=dependencies.settings.export_max_duration),
    )
    return BuiltDomain(
        registrations=(partial(add_CidServiceServicer_to_server, service),),
        jobs=(Job(name="fold totals", interval=_FOLD_INTERVAL, work=repository.fold_totals),),
    )


DOMAIN: Final = Domain(services=("vsync.v1.CidService",), build=_build, changes_cached_records=True)
