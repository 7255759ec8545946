"""Reads records through the cache.

A record that is not cached is loaded once for all concurrent readers, in this and other instances, and then stored
unless it has changed since. No call waits for Redis longer than the lookup timeout; then the database answers.
"""

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from vsyncd.cache import clock
from vsyncd.cache.encoding import ERROR, VALUE, Envelope, Envelopes, RedisKeys
from vsyncd.cache.invalidator import Invalidator
from vsyncd.cache.lookups import Lookup, LookupDeadline, LookupResult, LookupResults, Lookups, NotCached
from vsyncd.cache.operations import Cache, CacheError
from vsyncd.observability.metrics import CACHE_EVENTS, CACHE_LOOKUPS
from vsyncd.observability.tracing import TRACES
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

# Absences expire sooner than records, since anyone can look up what does not exist.
_MAX_ABSENCE_TTL_S: Final = 300.0
# Time between two lookups of a record that another instance loads.
_CLAIM_POLL_INTERVAL_S: Final = 0.005
# Readers do not join an older load: it may have read the database too long ago.
_MAX_JOINABLE_AGE_S: Final = 1.0


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


class Loaded(NamedTuple):
    """A record's bytes (None if there is no such record), and the server that it was read from (see Incarnation)."""

    payload: bytes | None
    server: int


# Loads the records with these digests from the primary, in their order.
Load: TypeAlias = Callable[[Sequence[bytes]], Awaitable[Sequence[Loaded]]]
# Payloads by Redis key.
Payloads: TypeAlias = Mapping[bytes, bytes | None]


class ReadThrough:
    """Answers from the cache if possible, and stores what it loads. `ttl` is in seconds."""

    def __init__(
        self, cache: Cache, keys: RedisKeys, envelopes: Envelopes, invalidator: Invalidator, *, ttl: float
    ) -> None:
        self._envelopes = envelopes
        self._invalidator = invalidator
        self._ttl = ttl
        self._filler = CacheFiller(cache, keys)
        self._lookups = Lookups(cache, keys, envelopes, invalidator)
        self._loads: dict[bytes, tuple[float, asyncio.Task[Payloads]]] = {}

    async def get(self, lookup: Lookup, load: Load) -> bytes | NotCached | None:
        """Returns a record's bytes, None if there is no such record, or BYPASS. Raises what `load` raises."""
        deadline = LookupDeadline()
        result = await self._lookups.find(lookup, deadline)
        if result is None:
            CACHE_LOOKUPS.add(lookup.kind, "bypass")
            return NotCached.BYPASS
        _count(result)
        if result.payload is NotCached.MISS:
            return (await self._load_missing({result.key: result}, load, deadline))[result.key]
        return result.payload

    async def get_many(self, kind: str, digests: Sequence[bytes], load: Load) -> list[bytes | None] | None:
        """Returns the bytes of records, each None if there is no such record, or None if the cache cannot be used.

        Raises what `load` raises.
        """
        deadline = LookupDeadline()
        results = await self._lookups.find_many([Lookup(kind, digest) for digest in digests])
        if results is None:
            CACHE_LOOKUPS.add(kind, "bypass", count=len(digests))
            return None
        for result in results:
            _count(result)
        missing = {result.key: result for result in results if result.payload is NotCached.MISS}
        loaded = await self._load_missing(missing, load, deadline) if missing else {}
        return [loaded[each.key] if isinstance(each.payload, NotCached) else each.payload for each in results]

    async def close(self) -> None:
        await cancel_and_wait([task for _, task in self._loads.values()])
        await self._lookups.close()
        await self._filler.close()

    async def _load_missing(self, missing: LookupResults, load: Load, deadline: LookupDeadline) -> Payloads:
        """Joins the loads that are in progress in this process, and loads the rest."""
        now = clock.now()
        tasks = {}
        for key in missing:
            started, task = self._loads.get(key, (float("-inf"), None))
            if task is not None and now - started <= _MAX_JOINABLE_AGE_S:
                tasks[key] = task
        ours = {key: result for key, result in missing.items() if key not in tasks}
        if ours:
            # In its own context: the task serves several calls.
            task = asyncio.get_running_loop().create_task(
                self._load(ours, load, deadline), context=TRACES.detached_context()
            )
            for key in ours:
                self._loads[key] = (now, task)
                tasks[key] = task
            task.add_done_callback(partial(self._on_load_done, tuple(ours)))
        return {key: (await asyncio.shield(task))[key] for key, task in tasks.items()}

    def _on_load_done(self, keys: Sequence[bytes], task: "asyncio.Task[Payloads]") -> None:
        for key in keys:
            if self._loads.get(key, (0.0, None))[1] is task:
                del self._loads[key]
        if not task.cancelled():
            task.exception()  # retrieved: the calls may have been cancelled

    async def _load(self, missing: LookupResults, load: Load, deadline: LookupDeadline) -> Payloads:
        """Loads records, except those that another instance has claimed and stores in time."""
        theirs = await self._lookups.claimed_elsewhere(missing, deadline)
        ours = {key: result for key, result in missing.items() if key not in theirs}
        if not theirs:
            return await self._load_and_store(ours, load)
        loaded, awaited = await asyncio.gather(
            self._load_and_store(ours, load), self._await_others(theirs, load, deadline)
        )
        return {**loaded, **awaited}

    async def _await_others(self, claimed: LookupResults, load: Load, deadline: LookupDeadline) -> Payloads:
        """Waits for the records that other instances load. Loads what they have not stored by the deadline."""
        payloads: dict[bytes, bytes | None] = {}
        left = dict(claimed)
        while left and await deadline.sleep(_CLAIM_POLL_INTERVAL_S):
            for key, result in (await self._lookups.find_again(left, deadline)).items():
                if isinstance(result.payload, NotCached):
                    left[key] = result
                else:
                    payloads[key] = result.payload
                    del left[key]
        return payloads | await self._load_and_store(left, load)

    async def _load_and_store(self, missing: LookupResults, load: Load) -> dict[bytes, bytes | None]:
        if not missing:
            return {}
        loaded = await load([result.lookup.digest for result in missing.values()])
        for result, each in zip(missing.values(), loaded, strict=True):
            if each.payload is not None or result.lookup.cache_absence:
                self._store(result, each)
        return {key: each.payload for key, each in zip(missing, loaded, strict=True)}

    def _store(self, miss: LookupResult, loaded: Loaded) -> None:
        """Queues a record to be stored, which was loaded from the primary after the miss.

        A record is not stored if it was read from another server than the change feed. After a failover, the pool or
        the invalidator may still be connected to the former primary for a while.
        """
        watermark = miss.watermark
        if loaded.server != watermark.incarnation.server:
            CACHE_EVENTS.add("elsewhere")
            self._invalidator.on_server_mismatch()
            return
        if loaded.payload is None:
            envelope, ttl = Envelope(ERROR, watermark.absence_generation, b"NOT_FOUND"), _MAX_ABSENCE_TTL_S
        else:
            envelope, ttl = Envelope(VALUE, watermark.generation, loaded.payload), self._ttl
        ttl = min(ttl, self._ttl) * random.uniform(0.9, 1.0)  # noqa: S311  spreads the expiry of entries
        sealed = self._envelopes.seal(miss.secret, miss.key, envelope)
        self._filler.add(CacheFill(miss.raw_watermark, miss.key, sealed, max(1, round(ttl * 1000))))


def _count(result: LookupResult) -> None:
    outcome = "miss" if result.payload is NotCached.MISS else "absent" if result.payload is None else "hit"
    CACHE_LOOKUPS.add(result.lookup.kind, outcome)
