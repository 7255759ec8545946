"""Builds the domain."""

from functools import partial
from typing import Final

from vsync.v1.cid_pb2_grpc import add_CidServiceServicer_to_server

from vsyncd.cache.wiring import drop_changes
from vsyncd.domains.cids.cached_reader import CachedCidReader
from vsyncd.domains.cids.create_batcher import CreateBatcher
from vsyncd.domains.cids.export_repository import ExportRepository
from vsyncd.domains.cids.export_stream import ExportStream
from vsyncd.domains.cids.import_repository import ImportRepository
from vsyncd.domains.cids.import_stream import ImportStream
from vsyncd.domains.cids.read_batcher import ReadBatcher
from vsyncd.domains.cids.repository import CidRepository
from vsyncd.domains.cids.service import CidService
from vsyncd.domains.domain import Dependencies, Domain
from vsyncd.jobs.runner import Job

# Seconds. Until they are summed up, counts and VSyncs add a row for each statement that changed cids.
_FOLD_INTERVAL: Final = 1.0
_DROP_CHANGES_INTERVAL_S: Final = 60.0


def domain(parts: Dependencies) -> Domain:
    """CidService, and the summing up of its counts."""
    repository = CidRepository(parts.database, parts.mutations)
    exports = ExportRepository(parts.database, most=parts.settings.export_max_streams)
    service = CidService(
        repository=repository,
        creator=CreateBatcher(parts.database, repository),
        reader=CachedCidReader(repository, ReadBatcher(repository), parts.cache),
        imports=ImportStream(ImportRepository(parts.database)),
        exports=ExportStream(exports, max_duration=parts.settings.export_max_duration),
    )
    return Domain(
        register=partial(add_CidServiceServicer_to_server, service),
        jobs=(
            Job(name="fold totals", interval=_FOLD_INTERVAL, work=repository.fold_totals),
            Job(
                name="drop cache changes",
                interval=_DROP_CHANGES_INTERVAL_S,
                work=partial(drop_changes, parts.database),
                exclusive=True,
            ),
        ),
    )
