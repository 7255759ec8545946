"""Builds the cache of one process from the settings."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from vsync.v1.cid_pb2 import CidRecord

from vsyncd.cache.encoding import Envelopes, RedisKeys, storage_format_id
from vsyncd.cache.invalidator import Invalidator
from vsyncd.cache.operations import Cache, open_clients
from vsyncd.cache.read_through import ReadThrough
from vsyncd.config import ConfigError, Settings
from vsyncd.config.redis_url import RedisAddress
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import CACHE_CURRENT
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries
from vsyncd.resilience.circuit_breaker import CircuitBreaker, publish_breaker
from vsyncd.resilience.tasks import cancel_and_wait

_log = logger(__name__)

DEPENDENCY: Final = "redis-cache"
# An operation that takes longer has failed. Calls stop waiting sooner (lookups.LOOKUP_TIMEOUT_S).
_OPERATION_TIMEOUT_S: Final = 0.25
_MAX_FAILURES: Final = 3
_TRIAL_INTERVAL_S: Final = 0.5


class CacheServices:
    """The cache of one process. Domains read through `records`."""

    def __init__(self, settings: Settings, database: Database) -> None:
        address = settings.redis_address
        if address is None:
            raise ValueError("there is no REDIS_URL")
        self.address = address
        self._settings = settings
        self.instance = secrets.token_hex(8)
        self.breaker = CircuitBreaker(DEPENDENCY, failures=_MAX_FAILURES, reset=settings.redis_breaker_reset)
        clients = open_clients(
            address,
            connect_timeout=settings.redis_conn_timeout,
            timeout=_OPERATION_TIMEOUT_S,
            current=self._current_address if settings.redis_url_file else None,
        )
        self.cache = Cache(clients, breaker=self.breaker, timeout=_OPERATION_TIMEOUT_S)
        self.keys = RedisKeys(
            settings.redis_prefix,
            format_id=storage_format_id(CidRecord.DESCRIPTOR),
            one_slot=address.mode == "cluster",
        )
        self._connect_timeout = settings.redis_conn_timeout + _OPERATION_TIMEOUT_S
        self.invalidator = Invalidator(self.cache, self.keys, database, connect_timeout=self._connect_timeout)
        keys = settings.cache_encryption_keys
        self._envelopes = Envelopes(*keys)
        self.records = ReadThrough(self.cache, self.keys, self._envelopes, self.invalidator, ttl=settings.cache_ttl)
        self._is_encrypted = bool(keys)
        self._database = database
        self._published = ExitStack()
        self._trials: list[asyncio.Task[None]] = []

    def start(self, *, invalidate: bool = True) -> None:
        """Starts to connect in the background.

        `invalidate`: whether to follow the change feed. It needs the tables of the domains whose records are cached.
        Without it no records are cached. Redis still connects instances (health/peer_status.py) and serves the domains.
        """
        if self.address.is_unprotected and not self._is_encrypted:
            _log.warning(
                "records are sent to Redis unencrypted over the network", remedy="CACHE_ENCRYPTION_KEY, and rediss://"
            )
        elif self.address.is_remote and not self._is_encrypted:
            _log.warning("records are stored in Redis unencrypted", remedy="CACHE_ENCRYPTION_KEY")
        self._published.callback(publish_breaker(self.breaker))
        CACHE_CURRENT.set_function(lambda: self.invalidator.is_current)
        self._published.callback(CACHE_CURRENT.set_function, lambda: 0.0)
        if invalidate:
            self._database.on_cached_change(self.invalidator.poll_soon)
            self.invalidator.start()
        else:
            self._trials = [asyncio.create_task(self._try_redis(), name="cache trials")]

    def use_encryption_keys(self, keys: Sequence[bytes]) -> None:
        """Uses other keys of CACHE_ENCRYPTION_KEY from now on."""
        self._envelopes.use(*keys)

    def _current_address(self) -> RedisAddress:
        """Returns the address in REDIS_URL_FILE, or the last one while the file is invalid."""
        try:
            self.address = self._settings.redis_address or self.address
        except ConfigError as error:
            _log.error("cannot read the address of Redis", problem=str(error))
        return self.address

    async def stop(self) -> None:
        await cancel_and_wait(self._trials)
        await self.invalidator.stop()
        await self.records.close()
        await self.cache.close()
        self._published.close()

    async def _try_redis(self) -> None:
        """Makes the trials of the circuit breaker, which the invalidator makes otherwise."""
        while True:
            await self.cache.is_available(self._connect_timeout)
            await asyncio.sleep(_TRIAL_INTERVAL_S)


async def drop_changes(database: Database) -> None:
    """Deletes the changes that every cache has processed. They are recorded even if there is no cache."""
    query = queries("vsyncd.cache", database.schema)["drop_changes"]
    await database.transaction(lambda session: session.one(query))
