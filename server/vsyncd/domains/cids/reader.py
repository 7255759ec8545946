"""Reads single CIDs for GetCid and BatchGetCids, through the cache if there is one.

Callers with different scopes share queries and cached records. Each record is checked against the caller's scope last.

A call with x-consistency, or with the token of a write that may have changed CIDs, bypasses the cache. Concurrent
GetCid calls of one kind of selector share a query.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar
from uuid import UUID

from vsync.v1 import cid_pb2 as pb

from vsyncd.cache.encoding import CID, ID, KEY, key_digest
from vsyncd.cache.lookups import Lookup, NotCached
from vsyncd.cache.read_through import Loaded, ReadThrough
from vsyncd.core.context import current_context
from vsyncd.core.errors import ServiceError, Unavailable
from vsyncd.core.scope import ALL, Scope
from vsyncd.domains.cids.messages import record_message
from vsyncd.domains.cids.records import CidRecord, ReadResult, Selector
from vsyncd.domains.cids.repository import CidRepository
from vsyncd.postgres.consistency import ReadMode, ReadPreference, WalPosition, read_preference
from vsyncd.postgres.database_server import is_down
from vsyncd.resilience.coalescer import Coalescer

K = TypeVar("K", bound=Hashable)

# A replica may lag: its answer is used for this call, but not stored in the cache.
_PRIMARY = ReadPreference(ReadMode.PRIMARY)


class CidReader:
    """Reads records as messages."""

    def __init__(self, repository: CidRepository, cache: ReadThrough | None) -> None:
        self._repository = repository
        self._cache = cache
        self._by_id: _ReadBatcher[UUID] = _ReadBatcher("get_by_id", partial(repository.get_by_ids, scope=ALL))
        self._by_cid: _ReadBatcher[bytes] = _ReadBatcher("get_by_cid", partial(repository.get_by_cids, scope=ALL))
        self._by_key: _ReadBatcher[tuple[str, str]] = _ReadBatcher(
            "get_by_key", partial(repository.get_by_keys, scope=ALL)
        )

    async def get(self, selector: Selector, *, scope: Scope) -> pb.CidRecord | None:
        """Returns the record, or None if it does not exist or is outside the scope."""
        record = await self._get(selector)
        return record if record is not None and record.ispb in scope else None

    async def _get(self, selector: Selector) -> pb.CidRecord | None:
        preference = read_preference(current_context(), ReadMode.PRIMARY_PREFERRED)
        if self._cache is not None and preference.allows_cache:

            async def load(_digests: Sequence[bytes]) -> list[Loaded]:
                return [_loaded(await self._read(selector, _PRIMARY))]

            with _primary_may_be_down():
                cached = await self._cache.get(_lookup(selector), load)
                if not isinstance(cached, NotCached):
                    return pb.CidRecord.FromString(cached) if cached is not None else None
        return _message((await self._read(selector, preference)).record)

    async def get_many(self, cids: Sequence[bytes], *, scope: Scope) -> list[pb.CidRecord | None]:
        """Returns the record of each CID, or None in its place if it does not exist or is outside the scope."""
        found = await self._get_many(cids)
        if not scope.is_restricted:
            return found
        return [record if record is not None and record.ispb in scope else None for record in found]

    async def _get_many(self, cids: Sequence[bytes]) -> list[pb.CidRecord | None]:
        preference = read_preference(current_context(), ReadMode.PRIMARY_PREFERRED)
        if self._cache is not None and preference.allows_cache:
            with _primary_may_be_down():
                cached = await self._cache.get_many(CID, cids, self._load_many)
                if cached is not None:
                    return [pb.CidRecord.FromString(each) if each is not None else None for each in cached]
        return [_message(record) for record, _ in await self._repository.get_by_cids(cids, preference, scope=ALL)]

    async def _read(self, selector: Selector, preference: ReadPreference) -> ReadResult:
        if selector.cid is not None:
            return await self._by_cid.get(selector.cid, preference)
        if selector.id is not None:
            return await self._by_id.get(selector.id, preference)
        return await self._by_key.get(selector.key or ("", ""), preference)

    async def _load_many(self, cids: Sequence[bytes]) -> list[Loaded]:
        return [_loaded(result) for result in await self._repository.get_by_cids(cids, _PRIMARY, scope=ALL)]


class _ReadBatcher(Generic[K]):
    """Reads records; concurrent calls with the same kind of ReadPreference share a query."""

    def __init__(self, name: str, get: Callable[[Sequence[K], ReadPreference], Awaitable[list[ReadResult]]]) -> None:
        self._get = get
        self._coalescers: dict[ReadMode, Coalescer[tuple[K, WalPosition | None], ReadResult | None]] = {
            mode: Coalescer(partial(self._flush, mode), name=name) for mode in ReadMode
        }

    async def get(self, key: K, preference: ReadPreference) -> ReadResult:
        result = await self._coalescers[preference.mode].submit((key, preference.min_position))
        return result or (await self._get([key], preference))[0]

    async def _flush(
        self, mode: ReadMode, members: Sequence[tuple[K, WalPosition | None]]
    ) -> Sequence[ReadResult | None]:
        """Reads from a server that has the latest position of the members.

        Returns None for each member if no server has it: each may still be answered alone.
        """
        positions = {position for _, position in members}
        latest = max((position for position in positions if position), default=None)
        try:
            return await self._get([key for key, _ in members], ReadPreference(mode, latest))
        except Unavailable:
            if len(positions) == 1:
                raise
            return [None] * len(members)


@contextmanager
def _primary_may_be_down() -> Iterator[None]:
    """Suppresses the error that the primary is down: the call then reads from a replica."""
    try:
        yield
    except ServiceError as failure:
        if not is_down(failure):
            raise


def _message(record: CidRecord | None) -> pb.CidRecord | None:
    return record_message(record) if record is not None else None


def _loaded(result: ReadResult) -> Loaded:
    message = _message(result.record)
    return Loaded(message.SerializeToString() if message is not None else None, result.server)


def _lookup(selector: Selector) -> Lookup:
    if selector.cid is not None:
        return Lookup(CID, selector.cid)
    if selector.id is not None:
        # The change feed does not contain new ids, so the absence of an id is not cached.
        return Lookup(ID, selector.id.bytes, cache_absence=False)
    return Lookup(KEY, key_digest(*(selector.key or ("", ""))))
