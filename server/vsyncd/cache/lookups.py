"""Asking Redis for records, in the time that a call has for it, and only what is to be believed."""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from vsyncd.cache.envelopes import VALUE, Envelopes
from vsyncd.cache.errors import CacheError, CacheUnavailable
from vsyncd.cache.invalidator import Invalidator
from vsyncd.cache.keys import RedisKeys
from vsyncd.cache.lookup_timeout import LatencyGuard, LookupTimeout
from vsyncd.cache.operations import Cache
from vsyncd.cache.watermark import Watermark
from vsyncd.observability.metrics import BatchInstruments
from vsyncd.observability.tracing import TRACES
from vsyncd.resilience.coalescer import Coalescer
from vsyncd.resilience.tasks import cancel_and_wait

T = TypeVar("T")

# Seconds that who claims a record has to load it; and names claimed in one step: as many as BatchGetCids takes.
_CLAIM: Final = 1.0
_CLAIMS: Final = 1_000


class NotCached(Enum):
    """What stands in a record's place when the cache cannot be asked (BYPASS), or does not have it (MISS)."""

    BYPASS = "bypass"
    MISS = "miss"


class Lookup(NamedTuple):
    """What a record is looked up by: a kind of names.py, and its digest. `lasting`: that there is none may be cached,
    since the feed tells when there is one."""

    kind: str
    digest: bytes
    lasting: bool = True


class Found(NamedTuple):
    """What Redis had of a record, and what it takes to store it: what it was looked up by, its name, the place that was
    seen before, and the secret of the epoch."""

    answer: bytes | NotCached | None
    lookup: Lookup
    name: bytes
    kept: bytes
    place: Watermark
    secret: bytes


# By name.
Wanted: TypeAlias = Mapping[bytes, Found]


class Lookups:
    """What Redis has. Those who ask at once ask together."""

    def __init__(self, cache: Cache, names: RedisKeys, envelopes: Envelopes, follower: Invalidator) -> None:
        self._cache = cache
        self._names = names
        self._envelopes = envelopes
        self._follower = follower
        self._looks: Coalescer[Lookup, Found | None] = Coalescer(
            self._look_up, instruments=BatchInstruments("cache_get")
        )
        self._claims: Coalescer[bytes, bool] = Coalescer(
            self._claim, instruments=BatchInstruments("cache_claim"), max_size=_CLAIMS
        )
        self._asking: set[asyncio.Task[Any]] = set()
        self._pace = LatencyGuard()

    async def close(self) -> None:
        """End what goes on behind the callers."""
        await cancel_and_wait(self._asking)

    @property
    def _usable(self) -> bool:
        return self._follower.current and not self._pace.resting

    async def look(self, lookup: Lookup, patience: LookupTimeout) -> Found | None:
        """None: Redis does not answer in time, or what it says is not to be believed."""
        if not self._usable:
            return None
        try:
            return await patience.wait(self._looks.join(lookup))
        except CacheError:
            return None

    async def look_at_all(self, lookups: Sequence[Lookup]) -> list[Found] | None:
        """`look`, for one call that asks for many."""
        if not self._usable:
            return None
        try:
            founds = await self._look_up(lookups)
        except CacheError:
            return None
        known = [found for found in founds if found is not None]
        return known if len(known) == len(founds) else None

    async def look_again(self, wanted: Wanted, patience: LookupTimeout) -> Wanted:
        """What is there by now, as far as that can be said."""
        if not self._usable:
            return {}
        looks = [self._looks.join(found.lookup) for found in wanted.values()]
        try:
            founds = await patience.wait(asyncio.gather(*looks))
        except CacheError:
            return {}
        return {found.name: found for found in founds if found is not None and found.name in wanted}

    async def claimed_elsewhere(self, wanted: Wanted, patience: LookupTimeout) -> Wanted:
        """What another instance has claimed; the rest is ours by then."""
        asked = [found for found in wanted.values() if found.lookup.lasting]
        if not asked or not self._usable:
            return {}
        claims = [self._claims.join(found.name) for found in asked]
        try:
            claimed = await patience.wait(asyncio.gather(*claims))
        except CacheError:
            return {}
        return {found.name: found for found, ours in zip(asked, claimed, strict=True) if not ours}

    async def _look_up(self, lookups: Sequence[Lookup]) -> list[Found | None]:
        secret = self._follower.secret
        names = [self._names.record(lookup.kind, lookup.digest, secret) for lookup in lookups]
        kept, *values = await self._timely(self._cache.get_many([self._names.feed, *names]), len(names))
        # After the answer: a place that was confirmed meanwhile counts.
        place = self._follower.accept(kept)
        if place is None or kept is None:
            return [None] * len(lookups)
        return [
            Found(self._answer(secret, name, data, place), lookup, name, kept, place, secret)
            for lookup, name, data in zip(lookups, names, values, strict=True)
        ]

    def _answer(self, secret: bytes, name: bytes, data: bytes | None, place: Watermark) -> bytes | NotCached | None:
        envelope = self._envelopes.open(secret, name, data) if data is not None else None
        if envelope is None:
            return NotCached.MISS
        if envelope.kind == VALUE:
            return envelope.payload if envelope.stamp == place.generation else NotCached.MISS
        return None if envelope.stamp == place.absences else NotCached.MISS

    async def _claim(self, names: Sequence[bytes]) -> list[bool]:
        claims = [self._names.claim(name) for name in names]
        return await self._timely(self._cache.set_if_absent(claims, b"1", _CLAIM), len(names))

    async def _timely(self, asking: Coroutine[Any, Any, T], size: int) -> T:
        """The answer of Redis about so many names. Raises CacheUnavailable when it does not come in time; the operation
        goes on behind, to its own limit, and whoever comes next does not wait for it."""
        if self._pace.resting:
            asking.close()
            raise CacheUnavailable("it was too slow a moment ago")
        begun = time.monotonic()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(asking, context=TRACES.detached_context())
        self._asking.add(task)
        task.add_done_callback(partial(self._answered, answer))
        try:
            result = await LookupTimeout().wait(answer)
        except CacheUnavailable:
            if not task.done():
                self._pace.missed()
            raise
        self._pace.answered(time.monotonic() - begun, size)
        return result

    def _answered(self, answer: "asyncio.Future[T]", task: "asyncio.Task[T]") -> None:
        self._asking.discard(task)
        if task.cancelled():
            answer.cancel()
        elif (error := task.exception()) is not None:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # perhaps nobody waits any longer
        elif not answer.done():
            answer.set_result(task.result())
