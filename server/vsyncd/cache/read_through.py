"""Reading records through the cache.

What is not cached is loaded once for all who want it, here and in other instances, and then stored, unless a change
came between. Nobody waits for Redis longer than patience.LIMIT; what the cache cannot say, the database does.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from vsyncd.cache import clock
from vsyncd.cache.cache_fill import CacheFill, CacheFiller
from vsyncd.cache.envelopes import ERROR, VALUE, Envelope, Envelopes
from vsyncd.cache.invalidator import Invalidator
from vsyncd.cache.keys import RedisKeys
from vsyncd.cache.lookup_timeout import LookupTimeout
from vsyncd.cache.lookups import Found, Lookup, Lookups, NotCached, Wanted
from vsyncd.cache.operations import Cache
from vsyncd.observability.metrics import CACHE
from vsyncd.observability.tracing import TRACES
from vsyncd.resilience.tasks import cancel_and_wait

# Seconds. What is missing is remembered for so long at the most: anyone can ask for what is not there.
_ABSENCE: Final = 300.0
# Between two looks whether another instance has loaded what it has claimed.
_LOOK: Final = 0.005
# A load that began longer ago than this is not joined: it may have read long before.
_JOINABLE: Final = 1.0


class Loaded(NamedTuple):
    """A record's bytes, None when there is none, and the server that said so (feed.Life)."""

    payload: bytes | None
    server: int


# Loads the records of these digests from the primary, in their order.
Load: TypeAlias = Callable[[Sequence[bytes]], Awaitable[Sequence[Loaded]]]
# What was loaded, by name.
Answers: TypeAlias = Mapping[bytes, bytes | None]


class ReadThrough:
    """Answers from the cache what it can, and stores what had to be loaded. `ttl` in seconds."""

    def __init__(
        self, cache: Cache, names: RedisKeys, envelopes: Envelopes, follower: Invalidator, *, ttl: float
    ) -> None:
        self._envelopes = envelopes
        self._follower = follower
        self._ttl = ttl
        self._filler = CacheFiller(cache, names)
        self._lookups = Lookups(cache, names, envelopes, follower)
        self._loads: dict[bytes, tuple[float, asyncio.Task[Answers]]] = {}

    async def get(self, lookup: Lookup, load: Load) -> bytes | NotCached | None:
        """A record's bytes, None when there is none, or BYPASS. Raises what `load` raises."""
        patience = LookupTimeout()
        found = await self._lookups.look(lookup, patience)
        if found is None:
            CACHE.lookup(lookup.kind, "bypass")
            return NotCached.BYPASS
        _count(found)
        if found.answer is NotCached.MISS:
            return (await self._loaded({found.name: found}, load, patience))[found.name]
        return found.answer

    async def get_many(self, kind: str, digests: Sequence[bytes], load: Load) -> list[bytes | None] | None:
        """The bytes of records, each None when there is none; None: the cache cannot be asked. Raises what `load`
        raises."""
        patience = LookupTimeout()
        founds = await self._lookups.look_at_all([Lookup(kind, digest) for digest in digests])
        if founds is None:
            CACHE.lookup(kind, "bypass", len(digests))
            return None
        for found in founds:
            _count(found)
        wanted = {found.name: found for found in founds if found.answer is NotCached.MISS}
        loaded = await self._loaded(wanted, load, patience) if wanted else {}
        return [loaded[found.name] if isinstance(found.answer, NotCached) else found.answer for found in founds]

    async def close(self) -> None:
        """End what goes on behind the callers."""
        await cancel_and_wait([task for _, task in self._loads.values()])
        await self._lookups.close()
        await self._filler.close()

    async def _loaded(self, wanted: Wanted, load: Load, patience: LookupTimeout) -> Answers:
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
            task = loop.create_task(self._load(ours, load, patience), context=TRACES.detached_context())
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

    async def _load(self, wanted: Wanted, load: Load, patience: LookupTimeout) -> Answers:
        """Unless another instance is at it, and done soon."""
        theirs = await self._lookups.claimed_elsewhere(wanted, patience)
        ours = {name: found for name, found in wanted.items() if name not in theirs}
        if not theirs:
            return await self._fetch(ours, load)
        loaded, awaited = await asyncio.gather(self._fetch(ours, load), self._await(theirs, load, patience))
        return {**loaded, **awaited}

    async def _await(self, theirs: Wanted, load: Load, patience: LookupTimeout) -> Answers:
        """What others are loading, as soon as it is there, or loaded here."""
        answers: dict[bytes, bytes | None] = {}
        left = dict(theirs)
        while left and await patience.pause(_LOOK):
            for name, found in (await self._lookups.look_again(left, patience)).items():
                if isinstance(found.answer, NotCached):
                    left[name] = found
                else:
                    answers[name] = found.answer
                    del left[name]
        return answers | await self._fetch(left, load)

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
        self._filler.add(CacheFill(found.kept, found.name, sealed, milliseconds))


def _count(found: Found) -> None:
    result = "miss" if found.answer is NotCached.MISS else "absent" if found.answer is None else "hit"
    CACHE.lookup(found.lookup.kind, result)
