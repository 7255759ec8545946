"""GetCid, many at once: concurrent reads of one kind go in one query."""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar
from uuid import UUID

from vsyncd.core.errors import Unavailable
from vsyncd.domains.cids.records import Reading, Selector
from vsyncd.domains.cids.repository import CidRepository
from vsyncd.observability.batches import BatchInstruments
from vsyncd.postgres.consistency import ReadMode, ReadPreference, WalPosition
from vsyncd.resilience.coalescer import Coalescer

K = TypeVar("K", bound=Hashable)

_Get = Callable[[Sequence[K], ReadPreference], Awaitable[list[Reading]]]


class ReadBatcher:
    """Reads single records, together when calls are concurrent."""

    def __init__(self, repository: CidRepository) -> None:
        self._by_id: _Together[UUID] = _Together("get_by_id", repository.get_by_ids)
        self._by_cid: _Together[bytes] = _Together("get_by_cid", repository.get_by_cids)
        self._by_key: _Together[tuple[str, str]] = _Together("get_by_key", repository.get_by_keys)

    async def get(self, selector: Selector, preference: ReadPreference) -> Reading:
        """What the server has of it."""
        if selector.cid is not None:
            return await self._by_cid.get(selector.cid, preference)
        if selector.id is not None:
            return await self._by_id.get(selector.id, preference)
        return await self._by_key.get(selector.key or ("", ""), preference)


class _Together(Generic[K]):
    """Calls that may be answered by the same servers go together; their places in the log are asked for together."""

    def __init__(self, name: str, get: _Get[K]) -> None:
        self._get = get
        self._coalescers: dict[ReadMode, Coalescer[tuple[K, WalPosition | None], Reading]] = {
            mode: Coalescer(partial(self._flush, mode), instruments=BatchInstruments(name)) for mode in ReadMode
        }

    async def get(self, key: K, preference: ReadPreference) -> Reading:
        """What the server has of a key."""
        try:
            return await self._coalescers[preference.mode].submit((key, preference.min_position))
        except _TooFar:
            return (await self._get([key], preference))[0]

    async def _flush(self, mode: ReadMode, members: Sequence[tuple[K, WalPosition | None]]) -> list[Reading]:
        positions = {position for _, position in members}
        latest = max((position for position in positions if position), default=None)
        try:
            return await self._get([key for key, _ in members], ReadPreference(mode, latest))
        except Unavailable as failure:
            if len(positions) == 1:
                raise
            raise _TooFar from failure


class _TooFar(Exception):  # noqa: N818  it sends the members on their way, nothing more
    """No server could answer that has all that its members want to see: each asks for itself."""
