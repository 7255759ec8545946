"""Stores loaded records in the background, many in one step."""

import asyncio
from collections import defaultdict, deque
from contextvars import Context
from typing import Final, NamedTuple

from vsyncd.cache.errors import CacheError
from vsyncd.cache.keys import RedisKeys
from vsyncd.cache.operations import Cache
from vsyncd.observability.metrics import CACHE_EVENTS
from vsyncd.resilience.tasks import cancel_and_wait

_MAX_BATCH: Final = 128
# Further entries are dropped: Redis is too slow for them.
_MAX_QUEUED: Final = 5_000

# KEYS: the watermark; then each entry's key and claim. ARGV: the expected watermark; then each entry's value and time
# to live in milliseconds. Stores nothing and returns 0 if the watermark has changed. A full Redis refuses the script.
_FILL: Final = """#!lua
local same = redis.call('GET', KEYS[1]) == ARGV[1]
for i = 2, #KEYS, 2 do
    if same then redis.call('SET', KEYS[i], ARGV[i], 'PX', ARGV[i + 1]) end
    redis.call('DEL', KEYS[i + 1])
end
return same and 1 or 0
"""


class CacheFill(NamedTuple):
    """An entry to store, and the encoded watermark that was read before its record was loaded."""

    raw_watermark: bytes
    key: bytes
    value: bytes
    ttl_ms: int


class CacheFiller:
    """Stores entries, unless the watermark has changed since their records were loaded."""

    def __init__(self, cache: Cache, keys: RedisKeys) -> None:
        self._cache = cache
        self._keys = keys
        self._queue: deque[CacheFill] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, fill: CacheFill) -> None:
        """Queues an entry, unless the queue is full."""
        if len(self._queue) >= _MAX_QUEUED:
            return
        self._queue.append(fill)
        if self._task is None or self._task.done():
            # An empty context: the task serves many calls and has no deadline.
            self._task = asyncio.get_running_loop().create_task(self._run(), name="cache filler", context=Context())

    async def close(self) -> None:
        """Stops; queued entries are dropped."""
        if self._task is not None:
            await cancel_and_wait([self._task])

    async def _run(self) -> None:
        while self._queue:
            batches: dict[bytes, dict[bytes, CacheFill]] = defaultdict(dict)
            for _ in range(min(_MAX_BATCH, len(self._queue))):
                fill = self._queue.popleft()
                batches[fill.raw_watermark][fill.key] = fill
            for raw_watermark, fills in batches.items():
                try:
                    await self._store(raw_watermark, list(fills.values()))
                except CacheError:
                    self._queue.clear()

    async def _store(self, raw_watermark: bytes, fills: list[CacheFill]) -> None:
        keys = [self._keys.watermark]
        values: list[bytes | int] = [raw_watermark]
        for fill in fills:
            keys += fill.key, self._keys.claim(fill.key)
            values += fill.value, fill.ttl_ms
        stored = await self._cache.run_script("fill", _FILL, keys, *values, stores=True)
        CACHE_EVENTS.add("stored" if stored else "refused", count=len(fills))
