"""The room, put together."""

from functools import partial
from typing import Final

from vsync.v1.cid_pb2_grpc import add_CidServiceServicer_to_server

from vsyncd.cids.cached_reading import CachedCidReader
from vsyncd.cids.creation import CidCreator
from vsyncd.cids.export_repository import ExportRepository
from vsyncd.cids.export_stream import ExportStream
from vsyncd.cids.import_repository import ImportRepository
from vsyncd.cids.import_stream import ImportStream
from vsyncd.cids.reading import CidReader
from vsyncd.cids.repository import CidRepository
from vsyncd.cids.service import CidService
from vsyncd.jobs import Job
from vsyncd.rooms import Parts, Room

# Seconds. Until they are summed up, counts and VSyncs add a row for each statement that changed cids.
_FOLD_INTERVAL: Final = 1.0


def room(parts: Parts) -> Room:
    """CidService, and the summing up of its counts."""
    repository = CidRepository(parts.database, parts.mutations)
    exports = ExportRepository(parts.database, most=parts.settings.export_max_streams)
    service = CidService(
        repository=repository,
        creator=CidCreator(parts.database, repository),
        reader=CachedCidReader(repository, CidReader(repository), parts.cache),
        imports=ImportStream(ImportRepository(parts.database)),
        exports=ExportStream(exports, max_duration=parts.settings.export_max_duration),
    )
    return Room(
        register=partial(add_CidServiceServicer_to_server, service),
        jobs=(Job(name="fold totals", interval=_FOLD_INTERVAL, work=repository.fold_totals),),
    )
