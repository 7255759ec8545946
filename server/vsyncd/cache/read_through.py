"""Reading records through the cache.

What is not cached is loaded once for all who want it, here and in other instances, and then stored, unless a change
came between. Nobody waits for Redis longer than patience.LIMIT; what the cache cannot say, the database does.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from vsyncd.cache import clock
from vsyncd.cache.envelopes import ERROR, VALUE, Envelope, Envelopes
from vsyncd.cache.errors import CacheError, CacheUnavailable
from vsyncd.cache.feed import Place
from vsyncd.cache.filling import Filler, Filling
from vsyncd.cache.follower import Follower
from vsyncd.cache.names import Names
from vsyncd.cache.operations import Cache
from vsyncd.cache.patience import Pace, Patience
from vsyncd.metrics import CACHE
from vsyncd.postgres.coalescing import Coalescer
from vsyncd.postgres.endings import end
from vsyncd.tracing import TRACES

T = TypeVar("T")

# Seconds. What is missing is remembered for so long at the most: anyone can ask for what is not there.
_ABSENCE: Final = 300.0
_CLAIM: Final = 1.0
# Between two looks whether another instance has loaded what it has claimed.
_LOOK: Final = 0.005
# A load that began longer ago than this is not joined: it may have read long before.
_JOINABLE: Final = 1.0
# Names claimed in one step: as many as BatchGetCids takes.
_CLAIMS: Final = 1_000


class Loaded(NamedTuple):
    """A record's bytes, None when there is none, and the server that said so (feed.Life)."""

    payload: bytes | None
    server: int


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
    """What Redis had of a record, and what it takes to store it: what it was looked up by, its name, the place that was
    seen before, and the secret of the epoch."""

    answer: bytes | Unknown | None
    lookup: Lookup
    name: bytes
    kept: bytes
    place: Place
    secret: bytes


# Loads the records of these digests from the primary, in their order.
Load: TypeAlias = Callable[[Sequence[bytes]], Awaitable[Sequence[Loaded]]]
# What was found, or loaded, by name.
Wanted: TypeAlias = Mapping[bytes, Found]
Answers: TypeAlias = Mapping[bytes, bytes | None]


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
        self._claims: Coalescer[bytes, bool] = Coalescer(self._claim, name="cache_claim", most=_CLAIMS)
        self._loads: dict[bytes, tuple[float, asyncio.Task[Answers]]] = {}
        self._asking: set[asyncio.Task[Any]] = set()
        self._pace = Pace()

    async def get(self, lookup: Lookup, load: Load) -> bytes | Unknown | None:
        """A record's bytes, None when there is none, or BYPASS. Raises what `load` raises."""
        patience = Patience()
        found = await self._look(lookup, patience)
        if found is None:
            CACHE.lookup(lookup.kind, "bypass")
            return Unknown.BYPASS
        _count(found)
        if found.answer is Unknown.MISS:
            return (await self._loaded({found.name: found}, load, patience))[found.name]
        return found.answer

    async def get_many(self, kind: str, digests: Sequence[bytes], load: Load) -> list[bytes | None] | None:
        """The bytes of records, each None when there is none; None: the cache cannot be asked. Raises what `load`
        raises."""
        patience = Patience()
        founds = await self._look_at_all([Lookup(kind, digest) for digest in digests])
        if founds is None:
            CACHE.lookup(kind, "bypass", len(digests))
            return None
        for found in founds:
            _count(found)
        wanted = {found.name: found for found in founds if found.answer is Unknown.MISS}
        loaded = await self._loaded(wanted, load, patience) if wanted else {}
        return [loaded[found.name] if isinstance(found.answer, Unknown) else found.answer for found in founds]

    async def close(self) -> None:
        """End what goes on behind the callers."""
        await end([*self._asking, *(task for _, task in self._loads.values())])
        await self._filler.close()

    # -- asking Redis ------------------------------------------------------------------------------------------------

    @property
    def _usable(self) -> bool:
        return self._follower.current and not self._pace.resting

    async def _look(self, lookup: Lookup, patience: Patience) -> Found | None:
        """None: Redis does not answer in time, or what it says is not to be believed."""
        if not self._usable:
            return None
        try:
            return await patience.wait(self._lookups.join(lookup))
        except CacheError:
            return None

    async def _look_at_all(self, lookups: Sequence[Lookup]) -> list[Found] | None:
        if not self._usable:
            return None
        try:
            founds = await self._look_up(lookups)
        except CacheError:
            return None
        known = [found for found in founds if found is not None]
        return known if len(known) == len(founds) else None

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

    def _answer(self, secret: bytes, name: bytes, data: bytes | None, place: Place) -> bytes | Unknown | None:
        envelope = self._envelopes.open(secret, name, data) if data is not None else None
        if envelope is None:
            return Unknown.MISS
        if envelope.kind == VALUE:
            return envelope.payload if envelope.stamp == place.generation else Unknown.MISS
        return None if envelope.stamp == place.absences else Unknown.MISS

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
        task = loop.create_task(asking, context=TRACES.apart())
        self._asking.add(task)
        task.add_done_callback(partial(self._answered, answer))
        try:
            result = await Patience().wait(answer)
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

    # -- loading what it does not have -------------------------------------------------------------------------------

    async def _loaded(self, wanted: Wanted, load: Load, patience: Patience) -> Answers:
        """The records that are missing; of those that are being loaded in this process, what comes of that."""
        now = clock.now()
        tasks = {}
        for name in wanted:
            begun, task = self._loads.get(name, (float("-inf"), None))
            if task is not None and now - begun <= _JOINABLE:
                tasks[name] = task
        ours = {name: found for name, found in wanted.items() if name not in tasks}
        if ours:
            loop = asyncio.get_running_loop()
            # In a context of its own: it is nobody's call, and others wait for it too.
            task = loop.create_task(self._load(ours, load, patience), context=TRACES.apart())
            for name in ours:
                self._loads[name] = (now, task)
                tasks[name] = task
            task.add_done_callback(partial(self._ended, tuple(ours)))
        return {name: (await asyncio.shield(task))[name] for name, task in tasks.items()}

    def _ended(self, names: Sequence[bytes], task: "asyncio.Task[Answers]") -> None:
        for name in names:
            if self._loads.get(name, (0.0, None))[1] is task:
                del self._loads[name]
        if not task.cancelled():
            task.exception()  # whoever it is for may be gone

    async def _load(self, wanted: Wanted, load: Load, patience: Patience) -> Answers:
        """Unless another instance is at it, and done soon."""
        theirs = await self._claimed_elsewhere(wanted, patience)
        ours = {name: found for name, found in wanted.items() if name not in theirs}
        if not theirs:
            return await self._fetch(ours, load)
        loaded, awaited = await asyncio.gather(self._fetch(ours, load), self._await(theirs, load, patience))
        return {**loaded, **awaited}

    async def _claimed_elsewhere(self, wanted: Wanted, patience: Patience) -> Wanted:
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

    async def _await(self, theirs: Wanted, load: Load, patience: Patience) -> Answers:
        """What others are loading, as soon as it is there, or loaded here."""
        answers: dict[bytes, bytes | None] = {}
        left = dict(theirs)
        while left and await patience.pause(_LOOK):
            for name, found in (await self._look_again(left, patience)).items():
                if isinstance(found.answer, Unknown):
                    left[name] = found
                else:
                    answers[name] = found.answer
                    del left[name]
        return answers | await self._fetch(left, load)

    async def _look_again(self, wanted: Wanted, patience: Patience) -> Wanted:
        """What is there by now, as far as that can be said."""
        if not self._usable:
            return {}
        looks = [self._lookups.join(found.lookup) for found in wanted.values()]
        try:
            founds = await patience.wait(asyncio.gather(*looks))
        except CacheError:
            return {}
        return {found.name: found for found in founds if found is not None and found.name in wanted}

    async def _fetch(self, wanted: Wanted, load: Load) -> dict[bytes, bytes | None]:
        if not wanted:
            return {}
        loaded = await load([found.lookup.digest for found in wanted.values()])
        for found, each in zip(wanted.values(), loaded, strict=True):
            if each.payload is not None or found.lookup.lasting:
                self._store(found, each)
        return {name: each.payload for name, each in zip(wanted, loaded, strict=True)}

    def _store(self, found: Found, loaded: Loaded) -> None:
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
        sealed = self._envelopes.seal(found.secret, found.name, envelope)
        self._filler.add(Filling(found.kept, found.name, sealed, milliseconds))


def _count(found: Found) -> None:
    result = "miss" if found.answer is Unknown.MISS else "absent" if found.answer is None else "hit"
    CACHE.lookup(found.lookup.kind, result)
