"""Finds records in Redis within a call's lookup timeout, and only those that may be used."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from vsyncd.cache.encoding import VALUE, Envelopes, RedisKeys
from vsyncd.cache.invalidator import Invalidator
from vsyncd.cache.operations import Cache, CacheError
from vsyncd.cache.watermark import Watermark
from vsyncd.observability.tracing import TRACES
from vsyncd.resilience.coalescer import Coalescer
from vsyncd.resilience.tasks import cancel_and_wait, transfer_outcome

T = TypeVar("T")

# The lookup timeout: how long one call waits for Redis in total, however many lookups it makes.
LOOKUP_TIMEOUT_S: Final = 0.013
# Extensions of the timeout, one after the other. They let the event loop read an answer that has already arrived.
_GRACE_PERIODS_S: Final = (0.001, 0.001)
# The latency guard pauses lookups if the fastest of the last answers took longer than this. It considers the fastest,
# since a busy process or a machine that pauses delays some answers, but not all.
_SLOW_ANSWER_S: Final = 0.005
_SAMPLES: Final = 8
# Lookups of more keys are not measured: they take longer to answer and to read.
_MAX_MEASURED_KEYS: Final = 128
# The latency guard's first pause, and its longest after repeated doubling.
_MIN_PAUSE_S: Final = 0.03
_MAX_PAUSE_S: Final = 0.25

# How long an instance that has claimed a record may take to load it.
_CLAIM_TTL_S: Final = 1.0
# Claims in one step: the maximum of BatchGetCids.
_MAX_CLAIMS: Final = 1_000


class LookupDeadline:
    """The time until which one call waits for Redis."""

    __slots__ = ("_deadline",)

    def __init__(self) -> None:
        self._deadline = time.monotonic() + LOOKUP_TIMEOUT_S

    @property
    def remaining(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    async def wait(self, answer: asyncio.Future[T]) -> T:
        """Returns the answer. Raises CacheError after the deadline."""
        timer = asyncio.get_running_loop().call_later(self.remaining, _expire, answer, *_GRACE_PERIODS_S)
        try:
            return await answer
        finally:
            timer.cancel()

    async def sleep(self, seconds: float) -> bool:
        """Sleeps before another lookup. Returns False at once if the deadline is nearer than that."""
        if self.remaining <= seconds:
            return False
        await asyncio.sleep(seconds)
        return True


def _expire(answer: asyncio.Future[T], *grace_periods: float) -> None:
    """Fails the answer after the grace periods. Each lets a busy event loop poll its sockets once more."""
    if answer.done():
        return
    if grace_periods:
        asyncio.get_running_loop().call_later(grace_periods[0], _expire, answer, *grace_periods[1:])
    else:
        answer.set_exception(CacheError("the lookup timed out"))


class LatencyGuard:
    """Pauses all lookups for a moment after a timeout, or while every answer is slow. Pure, except for the clock.

    Each pause is twice as long as the one before, up to _MAX_PAUSE_S, until Redis answers in time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latencies: deque[float] = deque(maxlen=_SAMPLES)
        self._next_pause = _MIN_PAUSE_S
        self._paused_until = float("-inf")

    @property
    def paused(self) -> bool:
        return self._clock() < self._paused_until

    def record_answer(self, seconds: float, keys: int) -> None:
        """Records the latency of a lookup of this number of keys."""
        if keys > _MAX_MEASURED_KEYS:
            return
        self._latencies.append(seconds)
        if len(self._latencies) == _SAMPLES and min(self._latencies) > _SLOW_ANSWER_S:
            self.pause()
        else:
            self._next_pause = _MIN_PAUSE_S

    def pause(self) -> None:
        """Pauses lookups: one has timed out, or every answer is slow."""
        self._paused_until = self._clock() + self._next_pause
        self._next_pause = min(2 * self._next_pause, _MAX_PAUSE_S)


class NotCached(Enum):
    """Takes a record's place if the cache cannot be used (BYPASS) or does not contain it (MISS)."""

    BYPASS = "bypass"
    MISS = "miss"


class Lookup(NamedTuple):
    """What a record is looked up by: a kind (see encoding.py) and its digest.

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
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(partial(transfer_outcome, answer))
        try:
            result = await LookupDeadline().wait(answer)
        except CacheError:
            if not task.done():
                self._latency_guard.pause()
            raise
        self._latency_guard.record_answer(time.monotonic() - started, keys)
        return result
