"""GetCid and BatchGetCids, through the cache when there is one.

A caller who wants to see all that was written (x-consistency: strong, or a token) goes past it, and so does one who
takes what a replica has (eventual).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vsync.v1 import cid_pb2 as pb

from vsyncd.cache.keys import CID, ID, KEY, key_digest
from vsyncd.cache.lookups import Lookup, NotCached
from vsyncd.cache.read_through import Loaded, ReadThrough
from vsyncd.core.context import current_context
from vsyncd.core.errors import ServiceError
from vsyncd.domains.cids.messages import record_message
from vsyncd.domains.cids.read_batcher import ReadBatcher
from vsyncd.domains.cids.records import CidRecord, Reading, Selector
from vsyncd.domains.cids.repository import CidRepository
from vsyncd.postgres.consistency import ReadMode, ReadPreference, read_preference
from vsyncd.postgres.database_server import is_down

_ORDINARY = ReadPreference(ReadMode.PRIMARY_PREFERRED)
# A replica may be behind: what it says is answered with, and not kept.
_PRIMARY = ReadPreference(ReadMode.PRIMARY)


class CachedCidReader:
    """Records as messages."""

    def __init__(self, repository: CidRepository, reader: ReadBatcher, cache: ReadThrough | None) -> None:
        self._repository = repository
        self._reader = reader
        self._cache = cache

    async def get(self, selector: Selector) -> pb.CidRecord | None:
        """The record, or None."""
        preference = read_preference(current_context(), ReadMode.PRIMARY_PREFERRED)
        if self._cache is None or preference != _ORDINARY:
            return _message((await self._reader.get(selector, preference)).record)

        async def load(_digests: Sequence[bytes]) -> list[Loaded]:
            return [_loaded(await self._reader.get(selector, _PRIMARY))]

        with _or_elsewhere():
            answer = await self._cache.get(_lookup(selector), load)
            if not isinstance(answer, NotCached):
                return pb.CidRecord.FromString(answer) if answer is not None else None
        return _message((await self._reader.get(selector, preference)).record)

    async def get_many(self, cids: Sequence[bytes]) -> list[pb.CidRecord | None]:
        """The records of these CIDs, in their order."""
        preference = read_preference(current_context(), ReadMode.PRIMARY_PREFERRED)
        if self._cache is not None and preference == _ORDINARY:
            with _or_elsewhere():
                answers = await self._cache.get_many(CID, cids, self._load_many)
                if answers is not None:
                    return [pb.CidRecord.FromString(each) if each is not None else None for each in answers]
        return [_message(record) for record, _ in await self._repository.get_by_cids(cids, preference)]

    async def _load_many(self, cids: Sequence[bytes]) -> list[Loaded]:
        return [_loaded(reading) for reading in await self._repository.get_by_cids(cids, _PRIMARY)]


@contextmanager
def _or_elsewhere() -> Iterator[None]:
    """Go on behind the block where the primary is down: a replica may answer."""
    try:
        yield
    except ServiceError as failure:
        if not is_down(failure):
            raise


def _message(record: CidRecord | None) -> pb.CidRecord | None:
    return record_message(record) if record is not None else None


def _loaded(reading: Reading) -> Loaded:
    message = _message(reading.record)
    return Loaded(message.SerializeToString() if message is not None else None, reading.server)


def _lookup(selector: Selector) -> Lookup:
    if selector.cid is not None:
        return Lookup(CID, selector.cid)
    if selector.id is not None:
        # New ids are not in the feed: what has none now may have one soon.
        return Lookup(ID, selector.id.bytes, cache_absence=False)
    return Lookup(KEY, key_digest(*(selector.key or ("", ""))))
