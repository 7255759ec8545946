"""GetCid, many at once: concurrent reads of one kind go in one query."""

from uuid import UUID

from vsyncd.cids.records import CidRecord, Selector
from vsyncd.cids.repository import CidRepository
from vsyncd.postgres.coalescing import Coalescer


class CidReader:
    """Reads single records, together when calls are concurrent."""

    def __init__(self, repository: CidRepository) -> None:
        self._by_id: Coalescer[UUID, CidRecord | None] = Coalescer(repository.get_by_ids, name="get_by_id")
        self._by_cid: Coalescer[bytes, CidRecord | None] = Coalescer(repository.get_by_cids, name="get_by_cid")
        self._by_key: Coalescer[tuple[str, str], CidRecord | None] = Coalescer(
            repository.get_by_keys, name="get_by_key"
        )

    async def get(self, selector: Selector) -> CidRecord | None:
        """The record, or None."""
        if selector.cid is not None:
            return await self._by_cid.submit(selector.cid)
        if selector.id is not None:
            return await self._by_id.submit(selector.id)
        return await self._by_key.submit(selector.key or ("", ""))
