"""Storing what was loaded, behind the callers, many entries in one step."""

import asyncio
from collections import defaultdict, deque
from contextvars import Context
from typing import Final, NamedTuple

from vsyncd.cache.errors import CacheError
from vsyncd.cache.keys import RedisKeys
from vsyncd.cache.operations import Cache
from vsyncd.cache.scripts import FILL
from vsyncd.observability.metrics import CACHE
from vsyncd.resilience.tasks import cancel_and_wait

_STEP: Final = 128
# Past so many that wait, Redis is too slow for them.
_MOST: Final = 5_000
_NO_CALL: Final = Context()


class CacheFill(NamedTuple):
    """An entry, and the place of the feed that was seen before it was loaded."""

    kept: bytes
    name: bytes
    value: bytes
    milliseconds: int


class CacheFiller:
    """Stores entries; those that a change came between are refused by Redis, and nothing is missed."""

    def __init__(self, cache: Cache, names: RedisKeys) -> None:
        self._cache = cache
        self._names = names
        self._waiting: deque[CacheFill] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, filling: CacheFill) -> None:
        """Store it soon, or not."""
        if len(self._waiting) >= _MOST:
            return
        self._waiting.append(filling)
        if self._task is None or self._task.done():
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name="cache filler", context=_NO_CALL.copy())

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            await cancel_and_wait([self._task])

    async def _run(self) -> None:
        while self._waiting:
            step: dict[bytes, dict[bytes, CacheFill]] = defaultdict(dict)
            for _ in range(min(_STEP, len(self._waiting))):
                filling = self._waiting.popleft()
                step[filling.kept][filling.name] = filling
            for kept, fillings in step.items():
                try:
                    await self._fill(kept, list(fillings.values()))
                except CacheError:
                    self._waiting.clear()

    async def _fill(self, kept: bytes, fillings: list[CacheFill]) -> None:
        names = [self._names.feed]
        values: list[bytes | int] = [kept]
        for filling in fillings:
            names += filling.name, self._names.claim(filling.name)
            values += filling.value, filling.milliseconds
        stored = await self._cache.run("fill", FILL, names, *values, stores=True)
        CACHE.event("stored" if stored else "refused", len(fillings))
