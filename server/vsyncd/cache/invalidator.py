"""Reads the change feed of PostgreSQL, deletes changed entries from Redis, and decides whether the cache may be used.

Every instance does all of it, so none depends on another instance or on what Redis reports (docs/cache.md).
"""

import asyncio
import random
from collections.abc import Iterator, Mapping
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from vsyncd.cache import clock
from vsyncd.cache.encoding import RedisKeys
from vsyncd.cache.operations import Cache, CacheError
from vsyncd.cache.watermark import ChangeBatch, Watermark
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import CACHE_EVENTS, QUERIES
from vsyncd.observability.tracing import TRACES
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries
from vsyncd.resilience.tasks import cancel_and_wait

# How long the cache may be used after a confirmation. A cached answer is behind the database by at most this time and
# the duration of the read.
CONFIRMED_FOR_S: Final = 3.0
_INTERVAL_S: Final = 0.5
# Minimum time between two polls, also when writes request them.
_MIN_INTERVAL_S: Final = 0.1
# A watermark is advanced at least this often, even without changes: well before the changes that it does not see,
# because their transaction was running then, are deleted from the feed (after ten minutes).
_MAX_WATERMARK_AGE_S: Final = 60.0
_QUERY_TIMEOUT_S: Final = 1.5
# On the server, shorter than _QUERY_TIMEOUT_S.
_STATEMENT_TIMEOUT_S: Final = 1.2
# Keys that one script deletes. Redis executes nothing else meanwhile.
_MAX_KEYS_PER_SCRIPT: Final = 2_000
# Attempts to advance the watermark if other instances advance it concurrently.
_MAX_ATTEMPTS: Final = 3

# KEYS: the watermark; then the keys to delete. ARGV: the expected watermark ('': none); the next one. Returns 0 if the
# watermark is not the expected one. Also runs on a full Redis, where outdated entries must be deleted as well.
_ADVANCE: Final = """#!lua flags=allow-oom
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""

_log = logger(__name__)


class Invalidator:
    """Keeps the watermark in Redis up to date.

    `watermark` is the last confirmed one, and `secret` the epoch's; both are valid while `is_current`.
    `connect_timeout`: seconds that connecting to Redis may take, in the background.
    """

    def __init__(self, cache: Cache, keys: RedisKeys, database: Database, *, connect_timeout: float) -> None:
        self.secret = b""
        self.watermark: Watermark | None = None
        self._cache = cache
        self._keys = keys
        self._server = database.primary
        self._queries = queries("vsyncd.cache", database.schema)
        self._connect_timeout = connect_timeout
        self._raw_watermark = b""
        self._other: tuple[bytes, Watermark | None] = (b"", None)
        self._current_until = float("-inf")
        self._advanced_at = float("-inf")
        self._started_at = float("inf")
        self._poll_requested = asyncio.Event()
        self._connection: Connection | None = None
        self._reconnect = False
        self._task: asyncio.Task[None] | None = None
        self._last_error = ""

    @property
    def is_current(self) -> bool:
        """Whether the cache may be used now."""
        return clock.now() < self._current_until

    @property
    def confirmed_at(self) -> float:
        """The time (clock.now) up to which all commits are known to be invalidated in Redis."""
        return self._current_until - CONFIRMED_FOR_S

    @property
    def is_overdue(self) -> bool:
        """Whether the cache should be in use by now, but is not."""
        return clock.now() >= max(self._current_until, self._started_at + CONFIRMED_FOR_S)

    def start(self) -> None:
        self._started_at = clock.now()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="cache invalidator")

    async def stop(self) -> None:
        """Stops. The cache is no longer used."""
        self._current_until = float("-inf")
        if self._task is not None:
            await cancel_and_wait([self._task])
            self._task = None
        await self._close()

    def poll_soon(self) -> None:
        """Requests a poll after a write, so that other readers see it sooner."""
        self._poll_requested.set()

    def on_server_mismatch(self) -> None:
        """Handles records that were read from another server than the change feed: one of the two is no longer primary.

        The cache is not used until the feed has been polled over new connections, which reach the current primary.
        """
        self._current_until = float("-inf")
        self._reconnect = True
        self._server.reconnect_to_writer()
        self._poll_requested.set()

    def accept(self, raw_watermark: bytes | None) -> Watermark | None:
        """Returns the decoded watermark that Redis returned with some entries, or None if they may not be used."""
        if raw_watermark is None or not self.is_current or self.watermark is None:
            return None
        if raw_watermark == self._raw_watermark:
            return self.watermark
        if raw_watermark != self._other[0]:
            self._other = (raw_watermark, Watermark.decode(raw_watermark))
        watermark = self._other[1]
        return watermark if watermark is not None and watermark.covers(self.watermark) else None

    async def _run(self) -> None:
        while True:
            failure = "internal error"
            try:
                if await self._cache.is_available(self._connect_timeout, probe=self.watermark is None):
                    with TRACES.batch("cache follow", ()):
                        await self._invalidate()
                    failure = ""
                else:
                    failure = "Redis is unreachable"
            except CacheError as error:
                failure = str(error)
            except (psycopg.Error, OSError, TimeoutError) as error:
                failure = type(error).__name__
                await self._close()
            except Exception as error:  # noqa: BLE001  a defect here must not disable the cache for good
                _log.error("the cache invalidator failed", exc_info=error)
            if failure != self._last_error:
                log = _log.warning if failure else _log.info
                log("cache", state="bypassed" if failure else "in use", cause=failure)
                self._last_error = failure
            await self._pause()

    async def _pause(self) -> None:
        """Waits for the next interval or a requested poll, but at least _MIN_INTERVAL_S."""
        await asyncio.sleep(_MIN_INTERVAL_S)
        interval = _INTERVAL_S * random.uniform(0.8, 1.2)  # noqa: S311  spreads the polls of instances
        try:
            async with asyncio.timeout(interval - _MIN_INTERVAL_S):
                await self._poll_requested.wait()
        except TimeoutError:
            pass
        self._poll_requested.clear()

    async def _invalidate(self) -> None:
        """Confirms or advances the watermark. Raises CacheError, psycopg.Error, OSError, TimeoutError."""
        for _ in range(_MAX_ATTEMPTS):
            connection = await self._connected()
            started = clock.now()
            raw_watermark = await self._cache.get(self._keys.watermark)
            watermark = Watermark.decode(raw_watermark)
            batch = await self._poll(connection, watermark)
            if batch.secret is None:
                continue
            recent = started - self._advanced_at < _MAX_WATERMARK_AGE_S
            if watermark is not None and batch.continues(watermark) and not batch.changes and recent:
                self._confirm(raw_watermark or b"", watermark, batch.secret, started)
                return
            if await self._advance(raw_watermark or b"", watermark, batch, started):
                return
        # Another instance was faster each time. Its watermark is confirmed by the next poll.

    async def _advance(
        self, raw_watermark: bytes, watermark: Watermark | None, batch: ChangeBatch, started: float
    ) -> bool:
        """Deletes changed entries. Returns False if another instance has advanced the watermark meanwhile."""
        secret = batch.secret or b""
        if watermark is None or not batch.continues(watermark):
            _log.info("every cache entry is invalidated", watermark_found=watermark is not None)
            CACHE_EVENTS.add("forgotten")
            target = Watermark.new_generation(batch.incarnation, batch.snapshot_text)
            steps: Iterator[list[bytes]] = iter([[]])
        else:
            target = watermark.advanced(batch.snapshot_text, invalidate_absences=batch.invalidates_absences)
            keys = {self._keys.record(kind, digest, secret) for kind, digest in batch.changed_lookups()}
            CACHE_EVENTS.add("taken_out", count=len(keys))
            steps = _steps(list(keys))
        for step in steps:
            last = len(step) < _MAX_KEYS_PER_SCRIPT
            # Only the last step reaches the target. The others change the nonce, so that readers do not store entries
            # that are being deleted.
            following = target if last or watermark is None else watermark.advanced(watermark.snapshot_text)
            keys_of_step = [self._keys.watermark, *step]
            if not await self._cache.run_script("move", _ADVANCE, keys_of_step, raw_watermark, following.encode()):
                return False
            raw_watermark = following.encode()
        self._advanced_at = started
        self._confirm(raw_watermark, target, secret, started)
        return True

    def _confirm(self, raw_watermark: bytes, watermark: Watermark, secret: bytes, started: float) -> None:
        self._raw_watermark, self.watermark, self.secret = raw_watermark, watermark, secret
        if not self._reconnect:  # requested during the poll
            self._current_until = started + CONFIRMED_FOR_S

    async def _connected(self) -> Connection:
        """Connects before the poll is timed: each host that hangs can take DB_CONNECT_TIMEOUT."""
        if self._reconnect:
            self._reconnect = False
            await self._close()
        if self._connection is None:
            self._connection = await self._server.connector.connect("vsyncd cache")
            limit = {"milliseconds": f"{_STATEMENT_TIMEOUT_S * 1000:.0f}"}
            async with asyncio.timeout(_QUERY_TIMEOUT_S):
                await self._connection.run_or_abort(self._fetch(self._connection, "limit_poll", limit))
        return self._connection

    async def _poll(self, connection: Connection, watermark: Watermark | None) -> ChangeBatch:
        async with asyncio.timeout(_QUERY_TIMEOUT_S):
            return await connection.run_or_abort(self._fetch_changes(connection, watermark))

    async def _fetch_changes(self, connection: Connection, watermark: Watermark | None) -> ChangeBatch:
        since = watermark.snapshot_text if watermark else None
        batch = ChangeBatch.from_rows(await self._fetch(connection, "poll", {"since": since}))
        if batch.secret is None:
            await self._fetch(connection, "begin_epoch", {})
        return batch

    async def _fetch(self, connection: Connection, name: str, parameters: Mapping[str, object]) -> list[TupleRow]:
        query = self._queries[name]
        with QUERIES.timed(query.name):
            # Unprepared: a pooler may not support prepared statements.
            cursor = await connection.cursor(binary=True).execute(query.sql, parameters, prepare=False)
            return await cursor.fetchall()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _steps(keys: list[bytes]) -> Iterator[list[bytes]]:
    """Yields _MAX_KEYS_PER_SCRIPT keys at a time. The last step has fewer, possibly none."""
    for at in range(0, len(keys) + 1, _MAX_KEYS_PER_SCRIPT):
        yield keys[at : at + _MAX_KEYS_PER_SCRIPT]
