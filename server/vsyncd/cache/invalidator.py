"""Follows the changes in PostgreSQL, takes what changed out of Redis, and knows whether what is cached may be believed.

Every instance does all of it, so that none depends on another one, nor on what Redis says of itself (docs/cache.md).
"""

import asyncio
import random
from collections.abc import Iterator, Mapping
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from vsyncd.cache import clock
from vsyncd.cache.changes import Polled
from vsyncd.cache.errors import CacheError
from vsyncd.cache.keys import RedisKeys
from vsyncd.cache.operations import Cache
from vsyncd.cache.scripts import MOVE
from vsyncd.cache.watermark import Watermark
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import CACHE, QUERIES
from vsyncd.observability.tracing import TRACES
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries
from vsyncd.resilience.tasks import cancel_and_wait

# Seconds. What is read from the cache is at most FRESH and the time of the read itself behind the database.
FRESH: Final = 3.0
INTERVAL: Final = 0.5
# Seconds between two looks that writes ask for.
SPACING: Final = 0.1
# A place is moved at least as often, also when nothing changed: well before the changes that it had not seen, for a
# transaction that was running then, are dropped (after ten minutes).
REFRESH: Final = 60.0
_PATIENCE: Final = 1.5
# For a statement, on the server: sooner than that.
_STATEMENT: Final = 1.2
# Names taken out in one step of Redis, which does nothing else meanwhile.
_STEP: Final = 2_000
_TRIES: Final = 3

_log = logger(__name__)


class Invalidator:
    """`place` and `secret` are what is known of the cache; both only as long as `current`.

    `connect_timeout`: the most seconds that connecting to Redis takes, which nobody waits for.
    """

    def __init__(self, cache: Cache, names: RedisKeys, database: Database, *, connect_timeout: float) -> None:
        self.secret = b""
        self._cache = cache
        self._names = names
        self._target = database.primary
        self._queries = queries("vsyncd.cache", database.schema)
        self._connect_timeout = connect_timeout
        self._kept = b""
        self._place: Watermark | None = None
        self._others: tuple[bytes, Watermark | None] = (b"", None)
        self._until = float("-inf")
        self._moved_at = float("-inf")
        self._began = float("-inf")
        self._asked = asyncio.Event()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._trouble = ""
        self._doubted = False

    @property
    def current(self) -> bool:
        """Whether what is cached may be believed now."""
        return clock.now() < self._until

    @property
    def confirmed_at(self) -> float:
        """When (clock.now) Redis was last known to have taken in everything that was committed."""
        return self._until - FRESH

    @property
    def late(self) -> bool:
        """Whether it ought to have followed by now."""
        return clock.now() >= max(self._until, self._began + FRESH)

    def start(self) -> None:
        """Begin."""
        self._began = clock.now()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="cache follower")

    async def stop(self) -> None:
        """End; the cache is believed no more."""
        self._until = float("-inf")
        if self._task is not None:
            await cancel_and_wait([self._task])
            self._task = None
        await self._close()

    def look(self) -> None:
        """Something was written: look soon, to spare other readers the wait."""
        self._asked.set()

    def doubt(self) -> None:
        """Records came from another server than the one that is followed: one of the two is the primary no more.

        Nothing is believed until it was looked over connections that are made now, which lead to the one that is.
        """
        self._until = float("-inf")
        self._doubted = True
        self._target.reconnect_to_writer()
        self._asked.set()

    def accept(self, kept: bytes | None) -> Watermark | None:
        """The place that Redis had together with some entries, when they may be believed."""
        if kept is None or not self.current or self._place is None:
            return None
        if kept == self._kept:
            return self._place
        if kept != self._others[0]:
            place = Watermark.decode(kept)
            self._others = (kept, place)
        place = self._others[1]
        return place if place is not None and place.covers(self._place) else None

    async def _run(self) -> None:
        while True:
            trouble = "internal error"
            try:
                if await self._reachable():
                    with TRACES.batch("cache follow", ()):
                        await self._follow()
                    trouble = ""
                else:
                    trouble = "Redis cannot be reached"
            except (CacheError, psycopg.Error, OSError, TimeoutError) as error:
                trouble = type(error).__name__
                if not isinstance(error, CacheError):
                    await self._close()
            except Exception as error:  # noqa: BLE001  a defect here must not leave the cache unused for good
                _log.error("the cache's follower is defective", exc_info=error)
            if trouble != self._trouble:
                log = _log.warning if trouble else _log.info
                log("cache", state="not believed" if trouble else "current", cause=trouble)
                self._trouble = trouble
            await self._pause()

    async def _pause(self) -> None:
        """Until something was written, or the time has come; never at once."""
        await asyncio.sleep(SPACING)
        try:
            async with asyncio.timeout(INTERVAL * random.uniform(0.8, 1.2) - SPACING):  # noqa: S311  to spread instances
                await self._asked.wait()
        except TimeoutError:
            pass
        self._asked.clear()

    async def _reachable(self) -> bool:
        """Whether Redis may be asked; while the breaker is open, a ping finds out, whenever one is due."""
        breaker = self._cache.breaker
        first = self._place is None and breaker.closed
        if breaker.closed and not first:
            return True
        trial = breaker.begin_trial()
        if not (trial or first):
            return False
        try:
            await self._cache.probe(self._connect_timeout)
        except CacheError:
            return False
        finally:
            if trial:
                breaker.abandon()
        breaker.succeeded(trial=trial)
        return True

    async def _follow(self) -> None:
        """Bring Redis up to now. Raises CacheError, psycopg.Error, OSError, TimeoutError."""
        for _ in range(_TRIES):
            connection = await self._connected()
            started = clock.now()
            kept = await self._cache.get(self._names.feed)
            place = Watermark.decode(kept)
            polled = await self._poll(connection, place)
            if polled.secret is None:
                continue
            fresh = started - self._moved_at < REFRESH
            if place is not None and polled.follows(place) and not polled.changes and fresh:
                self._confirm(kept or b"", place, polled.secret, started)
                return
            if await self._move(kept or b"", place, polled, started):
                return
        # Others were faster each time: theirs is believed as soon as it was looked at.

    async def _move(self, kept: bytes, place: Watermark | None, polled: Polled, started: float) -> bool:
        """Take out what changed; False when somebody else has moved the place meanwhile."""
        secret = polled.secret or b""
        if place is None or not polled.follows(place):
            _log.info("everything cached is forgotten", found=place is not None)
            CACHE.event("forgotten")
            following = Watermark.new(polled.life, polled.seen)
            steps: Iterator[list[bytes]] = iter([[]])
        else:
            following = place.moved(polled.seen, forget_absences=polled.forget_absences)
            names = {self._names.record(kind, digest, secret) for kind, digest in polled.lookups()}
            CACHE.event("taken_out", len(names))
            steps = _steps(list(names))
        for step in steps:
            last = len(step) < _STEP
            # Only the last step has seen everything; those before keep readers from storing what is being taken out.
            to = following if last or place is None else place.moved(place.seen, forget_absences=False)
            if not await self._cache.run("move", MOVE, [self._names.feed, *step], kept, to.encode()):
                return False
            kept = to.encode()
        self._moved_at = started
        self._confirm(kept, following, secret, started)
        return True

    def _confirm(self, kept: bytes, place: Watermark, secret: bytes, started: float) -> None:
        self._kept, self._place, self.secret = kept, place, secret
        if not self._doubted:  # since it was asked
            self._until = started + FRESH

    async def _connected(self) -> Connection:
        """Before anything is timed: where there are several hosts, those that hang cost DB_CONNECT_TIMEOUT each."""
        if self._doubted:
            self._doubted = False
            await self._close()
        if self._connection is None:
            self._connection = await self._target.connector.connect("vsyncd cache")
            limit = {"milliseconds": f"{_STATEMENT * 1000:.0f}"}
            async with asyncio.timeout(_PATIENCE):
                await self._connection.run_or_abort(self._fetch(self._connection, "limit_poll", limit))
        return self._connection

    async def _poll(self, connection: Connection, place: Watermark | None) -> Polled:
        async with asyncio.timeout(_PATIENCE):
            return await connection.run_or_abort(self._changes(connection, place))

    async def _changes(self, connection: Connection, place: Watermark | None) -> Polled:
        polled = Polled.of(await self._fetch(connection, "poll", {"since": place.seen if place else None}))
        if polled.secret is None:
            await self._fetch(connection, "begin_epoch", {})
        return polled

    async def _fetch(self, connection: Connection, name: str, parameters: Mapping[str, object]) -> list[TupleRow]:
        query = self._queries[name]
        with QUERIES.timed(query.name):
            cursor = await connection.cursor(binary=True).execute(query.sql, parameters, prepare=False)  # poolers
            return await cursor.fetchall()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _steps(names: list[bytes]) -> Iterator[list[bytes]]:
    """All names, _STEP at a time; the last step has fewer."""
    for at in range(0, len(names) + 1, _STEP):
        yield names[at : at + _STEP]
