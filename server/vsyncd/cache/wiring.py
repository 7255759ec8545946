"""The room, put together: what there is of the cache when there is a REDIS_URL."""

import base64
import secrets
from collections.abc import Callable

from vsync.v1.cid_pb2 import CidRecord

from vsyncd.cache.client import open_clients
from vsyncd.cache.envelopes import Envelopes
from vsyncd.cache.invalidator import Invalidator
from vsyncd.cache.keys import RedisKeys, form_of
from vsyncd.cache.operations import Cache
from vsyncd.cache.read_through import ReadThrough
from vsyncd.config import Settings
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import CACHE, publish_breaker
from vsyncd.postgres.database import Database
from vsyncd.postgres.queries import queries
from vsyncd.resilience.circuit_breaker import CircuitBreaker

_log = logger(__name__)

DEPENDENCY = "redis-cache"
# An operation that takes longer has failed. Callers do not wait as long (patience.LIMIT).
_TIMEOUT = 0.25
_FAILURES = 3


class CacheServices:
    """The cache of one process. `records` is what domains read through."""

    def __init__(self, settings: Settings, database: Database) -> None:
        place = settings.redis_place
        if place is None:
            raise ValueError("there is no REDIS_URL")
        self.place = place
        self.instance = secrets.token_hex(8)
        self.breaker = CircuitBreaker(DEPENDENCY, failures=_FAILURES, reset=settings.redis_breaker_reset)
        clients = open_clients(place, connect_timeout=settings.redis_conn_timeout, timeout=_TIMEOUT)
        self.cache = Cache(clients, breaker=self.breaker, timeout=_TIMEOUT)
        form = form_of(CidRecord.DESCRIPTOR)
        self.names = RedisKeys(settings.redis_prefix, form=form, one_slot=place.mode == "cluster")
        self.follower = Invalidator(
            self.cache, self.names, database, connect_timeout=settings.redis_conn_timeout + _TIMEOUT
        )
        key = settings.cache_encryption_key
        envelopes = Envelopes(base64.b64decode(key.get_secret_value()) if key else None)
        self.records = ReadThrough(self.cache, self.names, envelopes, self.follower, ttl=settings.cache_ttl)
        self._bare = place.is_open and key is None
        self._database = database
        self._withdraw: list[Callable[[], None]] = []

    def start(self) -> None:
        """Begin to connect, in the background."""
        if self._bare:
            _log.warning(
                "records go to Redis over the network as they are", remedy="CACHE_ENCRYPTION_KEY, or rediss://"
            )
        self._withdraw = [publish_breaker(self.breaker), CACHE.publish(lambda: self.follower.current)]
        self._database.on_cached_change(self.follower.look)
        self.follower.start()

    async def stop(self) -> None:
        """Close every connection."""
        await self.follower.stop()
        await self.records.close()
        await self.cache.close()
        while self._withdraw:
            self._withdraw.pop()()


async def drop_changes(database: Database) -> None:
    """Deletes the changes that every cache has processed. They are recorded whether or not there is a cache."""
    query = queries("vsyncd.cache", database.schema)["drop_changes"]
    await database.transaction(lambda session: session.one(query))
