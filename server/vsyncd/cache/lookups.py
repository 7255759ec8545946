"""Finds records in Redis within a call's lookup timeout, and only those that may be used."""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from vsyncd.cache.envelopes import VALUE, Envelopes
from vsyncd.cache.errors import CacheError
from vsyncd.cache.invalidator import Invalidator
from vsyncd.cache.keys import RedisKeys
from vsyncd.cache.lookup_timeout import LatencyGuard, LookupDeadline
from vsyncd.cache.operations import Cache
from vsyncd.cache.watermark import Watermark
from vsyncd.observability.tracing import TRACES
from vsyncd.resilience.coalescer import Coalescer
from vsyncd.resilience.tasks import cancel_and_wait

T = TypeVar("T")

# How long an instance that has claimed a record may take to load it.
_CLAIM_TTL_S: Final = 1.0
# Claims in one step: the maximum of BatchGetCids.
_MAX_CLAIMS: Final = 1_000


class NotCached(Enum):
    """Takes a record's place if the cache cannot be used (BYPASS) or does not contain it (MISS)."""

    BYPASS = "bypass"
    MISS = "miss"


class Lookup(NamedTuple):
    """What a record is looked up by: a kind (see keys.py) and its digest.

    `cache_absence`: that there is no such record may be cached, since the change feed reports new ones.
    """

    kind: str
    digest: bytes
    cache_absence: bool = True


class LookupResult(NamedTuple):
    """The payload (None for a cached absence), and what is needed to store the record after a miss.

    `watermark` was read together with the payload; `raw_watermark` is its encoded form.
    """

    payload: bytes | NotCached | None
    lookup: Lookup
    key: bytes
    raw_watermark: bytes
    watermark: Watermark
    secret: bytes


# By Redis key.
LookupResults: TypeAlias = Mapping[bytes, LookupResult]


class Lookups:
    """Looks records up. Concurrent lookups share one command."""

    def __init__(self, cache: Cache, keys: RedisKeys, envelopes: Envelopes, invalidator: Invalidator) -> None:
        self._cache = cache
        self._keys = keys
        self._envelopes = envelopes
        self._invalidator = invalidator
        self._lookups: Coalescer[Lookup, LookupResult | None] = Coalescer(self._fetch, name="cache_get")
        self._claims: Coalescer[bytes, bool] = Coalescer(self._claim, name="cache_claim", max_size=_MAX_CLAIMS)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._latency_guard = LatencyGuard()

    async def close(self) -> None:
        """Cancels operations in progress."""
        await cancel_and_wait(self._tasks)

    @property
    def _usable(self) -> bool:
        return self._invalidator.is_current and not self._latency_guard.paused

    async def find(self, lookup: Lookup, deadline: LookupDeadline) -> LookupResult | None:
        """Returns None if Redis does not answer in time, or if its answer may not be used."""
        if not self._usable:
            return None
        try:
            return await deadline.wait(self._lookups.join(lookup))
        except CacheError:
            return None

    async def find_many(self, lookups: Sequence[Lookup]) -> list[LookupResult] | None:
        """Like `find`, for one call with many lookups."""
        if not self._usable:
            return None
        try:
            results = await self._fetch(lookups)
        except CacheError:
            return None
        usable = [result for result in results if result is not None]
        return usable if len(usable) == len(results) else None

    async def find_again(self, missing: LookupResults, deadline: LookupDeadline) -> LookupResults:
        """Returns the new results of lookups that were misses, as far as they are known in time."""
        if not self._usable:
            return {}
        lookups = [self._lookups.join(result.lookup) for result in missing.values()]
        try:
            results = await deadline.wait(asyncio.gather(*lookups))
        except CacheError:
            return {}
        return {result.key: result for result in results if result is not None and result.key in missing}

    async def claimed_elsewhere(self, missing: LookupResults, deadline: LookupDeadline) -> LookupResults:
        """Claims missing records for this instance. Returns those that another instance has claimed."""
        claimable = [result for result in missing.values() if result.lookup.cache_absence]
        if not claimable or not self._usable:
            return {}
        claims = [self._claims.join(result.key) for result in claimable]
        try:
            claimed = await deadline.wait(asyncio.gather(*claims))
        except CacheError:
            return {}
        return {result.key: result for result, ours in zip(claimable, claimed, strict=True) if not ours}

    async def _fetch(self, lookups: Sequence[Lookup]) -> list[LookupResult | None]:
        secret = self._invalidator.secret
        keys = [self._keys.record(lookup.kind, lookup.digest, secret) for lookup in lookups]
        get = self._cache.get_many([self._keys.watermark, *keys])
        raw_watermark, *values = await self._within_timeout(get, len(keys))
        # After the answer, so that a watermark that was confirmed meanwhile is accepted.
        watermark = self._invalidator.accept(raw_watermark)
        if watermark is None or raw_watermark is None:
            return [None] * len(lookups)
        return [
            LookupResult(self._payload(secret, key, data, watermark), lookup, key, raw_watermark, watermark, secret)
            for lookup, key, data in zip(lookups, keys, values, strict=True)
        ]

    def _payload(self, secret: bytes, key: bytes, data: bytes | None, watermark: Watermark) -> bytes | NotCached | None:
        envelope = self._envelopes.open(secret, key, data) if data is not None else None
        if envelope is None:
            return NotCached.MISS
        if envelope.kind == VALUE:
            return envelope.payload if envelope.stamp == watermark.generation else NotCached.MISS
        return None if envelope.stamp == watermark.absence_generation else NotCached.MISS

    async def _claim(self, keys: Sequence[bytes]) -> list[bool]:
        claims = [self._keys.claim(key) for key in keys]
        return await self._within_timeout(self._cache.set_if_absent(claims, b"1", _CLAIM_TTL_S), len(keys))

    async def _within_timeout(self, operation: Coroutine[Any, Any, T], keys: int) -> T:
        """Returns the result of an operation on this number of keys. Raises CacheError after the lookup timeout.

        The operation then continues in the background up to its own timeout, and later lookups do not wait for it.
        """
        if self._latency_guard.paused:
            operation.close()
            raise CacheError("lookups are paused")
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(operation, context=TRACES.detached_context())
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_task_done, answer))
        try:
            result = await LookupDeadline().wait(answer)
        except CacheError:
            if not task.done():
                self._latency_guard.pause()
            raise
        self._latency_guard.record_answer(time.monotonic() - started, keys)
        return result

    def _on_task_done(self, answer: "asyncio.Future[T]", task: "asyncio.Task[T]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            answer.cancel()
        elif (error := task.exception()) is not None:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # retrieved: the caller may no longer wait
        elif not answer.done():
            answer.set_result(task.result())
