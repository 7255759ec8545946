"""Reading records through the cache.

What is not cached is loaded once for all who want it, here and in other instances, and then stored, unless a change
came between. Nobody waits for Redis longer than LIMIT; what the cache cannot say, the database does.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from vsyncd.cache.envelopes import ERROR, VALUE, Envelope, Envelopes
from vsyncd.cache.errors import CacheError, CacheUnavailable
from vsyncd.cache.feed import Place
from vsyncd.cache.filling import Filler, Filling
from vsyncd.cache.follower import Follower
from vsyncd.cache.names import Names
from vsyncd.cache.operations import Cache
from vsyncd.metrics import CACHE
from vsyncd.postgres.coalescing import Coalescer
from vsyncd.postgres.endings import end
from vsyncd.tracing import TRACES

T = TypeVar("T")

# Seconds that a caller waits for Redis, at the most, and what is added while this process itself is late.
LIMIT: Final = 0.013
_GRACE: Final = (0.001, 0.001)
# After a wait in vain, for so long nobody waits: a moment at first, for a machine that was busy for a moment, and twice
# as long each time, to the second figure, until Redis answers in time.
_RESTS: Final = (0.03, 0.25)
# What is missing is remembered for so long at the most: anyone can ask for what is not there.
_ABSENCE: Final = 300.0
_CLAIM: Final = 1.0
# How often, and how long each time, another instance's load is waited for.
_LOOKS: Final = 4
_LOOK: Final = 0.005
# A load that began longer ago than this is not joined: it may have read long before.
_JOINABLE: Final = 1.0


class Loaded(NamedTuple):
    """A record's bytes, None when there is none, and the server that said so (feed.Life)."""

    payload: bytes | None
    server: int


# Loads a record from the primary.
Load = Callable[[], Awaitable[Loaded]]


class Unknown(Enum):
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
    """What Redis had of a record, and what it takes to store it: its name, the place that was seen before, and the
    secret of the epoch."""

    answer: bytes | Unknown | None
    name: bytes
    kept: bytes
    place: Place
    secret: bytes


class ReadThrough:
    """Answers from the cache what it can, and stores what had to be loaded. `ttl` in seconds."""

    def __init__(self, cache: Cache, names: Names, envelopes: Envelopes, follower: Follower, *, ttl: float) -> None:
        self._cache = cache
        self._names = names
        self._envelopes = envelopes
        self._follower = follower
        self._ttl = ttl
        self._filler = Filler(cache, names)
        self._lookups: Coalescer[Lookup, Found | None] = Coalescer(self._look_up, name="cache_get")
        self._claims: Coalescer[bytes, bool] = Coalescer(self._claim, name="cache_claim")
        self._loads: dict[bytes, tuple[float, asyncio.Task[bytes | None]]] = {}
        self._asking: set[asyncio.Task[Any]] = set()
        self._rest = _RESTS[0]
        self._rests_until = float("-inf")

    async def get(self, lookup: Lookup, load: Load) -> bytes | Unknown | None:
        """A record's bytes, None when there is none, or BYPASS. Raises what `load` raises."""
        found = await self._look(lookup)
        if found is None:
            CACHE.lookup(lookup.kind, "bypass")
            return Unknown.BYPASS
        if found.answer is Unknown.MISS:
            CACHE.lookup(lookup.kind, "miss")
            return await self._loaded(lookup, found, load)
        CACHE.lookup(lookup.kind, "absent" if found.answer is None else "hit")
        return found.answer

    async def get_many(self, kind: str, digests: Sequence[bytes]) -> list[Found] | None:
        """What is cached of many records; None: the cache cannot be asked."""
        founds = await self._within(self._look_up([Lookup(kind, digest) for digest in digests])) or ()
        known = [found for found in founds if found is not None]
        if len(known) != len(digests):
            CACHE.lookup(kind, "bypass", len(digests))
            return None
        for found in known:
            result = "miss" if found.answer is Unknown.MISS else "absent" if found.answer is None else "hit"
            CACHE.lookup(kind, result)
        return known

    def store(self, found: Found, loaded: Loaded) -> None:
        """Store, behind the caller's back, what was loaded from the primary after `found`.

        Not what another server said than the one whose changes are followed: after a failover, connections of the pool
        may lead for a while to the one that was the primary before, and whoever follows may be the one that lags.
        """
        if loaded.server != found.place.life.server:
            CACHE.event("elsewhere")
            self._follower.doubt()
            return
        if loaded.payload is None:
            envelope, ttl = Envelope(ERROR, found.place.absences, b"NOT_FOUND"), min(self._ttl, _ABSENCE)
        else:
            envelope, ttl = Envelope(VALUE, found.place.generation, loaded.payload), self._ttl
        milliseconds = max(1, round(ttl * 1000 * random.uniform(0.9, 1.0)))  # noqa: S311  so that not all end at once
        self._filler.add(
            Filling(found.kept, found.name, self._envelopes.seal(found.secret, found.name, envelope), milliseconds)
        )

    async def close(self) -> None:
        """End what goes on behind the callers."""
        await end([*self._asking, *(task for _, task in self._loads.values())])
        await self._filler.close()

    async def _look(self, lookup: Lookup) -> Found | None:
        if not self._follower.current:
            return None
        return await self._within(self._lookups.submit(lookup))

    async def _within(self, asking: Coroutine[Any, Any, T]) -> T | None:
        """The answer of Redis, when it comes in time."""
        if not self._follower.current or time.monotonic() < self._rests_until:
            asking.close()
            return None
        try:
            return await asking
        except CacheError:
            return None

    async def _timely(self, asking: Coroutine[Any, Any, T]) -> T:
        """The answer of Redis, within LIMIT. Raises CacheUnavailable; the operation goes on behind, to its own limit.

        Where this process is too busy to look at the answer, time passes that is not Redis's: so the sockets are looked
        at once more, and again, before it is given up.
        """
        if time.monotonic() < self._rests_until:
            asking.close()
            raise CacheUnavailable("it was too slow a moment ago")
        task = asyncio.get_running_loop().create_task(asking, context=TRACES.apart())
        self._asking.add(task)
        task.add_done_callback(self._answered)
        for seconds in (LIMIT, *_GRACE):
            done, _ = await asyncio.wait({task}, timeout=seconds)
            if done:
                self._rest = _RESTS[0]
                return task.result()
        self._rests_until = time.monotonic() + self._rest
        self._rest = min(2 * self._rest, _RESTS[1])
        raise CacheUnavailable("it is too slow")

    def _answered(self, task: "asyncio.Task[Any]") -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody waits any longer

    async def _look_up(self, lookups: Sequence[Lookup]) -> list[Found | None]:
        secret = self._follower.secret
        names = [self._names.record(lookup.kind, lookup.digest, secret) for lookup in lookups]
        kept, *values = await self._timely(self._cache.get_many([self._names.feed, *names]))
        # After the answer: a place that was confirmed meanwhile counts.
        place = self._follower.accept(kept)
        if place is None or kept is None:
            return [None] * len(lookups)
        return [
            Found(self._answer(secret, name, data, place), name, kept, place, secret)
            for name, data in zip(names, values, strict=True)
        ]

    def _answer(self, secret: bytes, name: bytes, data: bytes | None, place: Place) -> bytes | Unknown | None:
        envelope = self._envelopes.open(secret, name, data) if data is not None else None
        if envelope is None:
            return Unknown.MISS
        if envelope.kind == VALUE:
            return envelope.payload if envelope.stamp == place.generation else Unknown.MISS
        return None if envelope.stamp == place.absences else Unknown.MISS

    async def _loaded(self, lookup: Lookup, found: Found, load: Load) -> bytes | None:
        now = time.monotonic()
        begun, task = self._loads.get(found.name, (float("-inf"), None))
        if task is None or now - begun > _JOINABLE:
            loop = asyncio.get_running_loop()
            # In a context of its own: it is nobody's call, and others wait for it too.
            task = loop.create_task(self._load(lookup, found, load), context=TRACES.apart())
            self._loads[found.name] = (now, task)
            task.add_done_callback(partial(self._ended, found.name))
        return await asyncio.shield(task)

    def _ended(self, name: bytes, task: "asyncio.Task[bytes | None]") -> None:
        if self._loads.get(name, (0.0, None))[1] is task:
            del self._loads[name]
        if not task.cancelled():
            task.exception()  # whoever it is for may be gone

    async def _load(self, lookup: Lookup, found: Found, load: Load) -> bytes | None:
        """Unless another instance is at it, and done soon."""
        if lookup.lasting and await self._within(self._claims.submit(found.name)) is False:
            for _ in range(_LOOKS):
                await asyncio.sleep(_LOOK)
                again = await self._look(lookup)
                if again is None:
                    break
                found = again
                if not isinstance(again.answer, Unknown):
                    return again.answer
        loaded = await load()
        if loaded.payload is not None or lookup.lasting:
            self.store(found, loaded)
        return loaded.payload

    async def _claim(self, names: Sequence[bytes]) -> list[bool]:
        claims = [self._names.claim(name) for name in names]
        return await self._timely(self._cache.set_if_absent(claims, b"1", _CLAIM))
