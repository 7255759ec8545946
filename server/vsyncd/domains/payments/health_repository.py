"""Stores reports about processors in PostgreSQL, and a copy of each in Redis.

The copy expires after 30 s, like the report. It answers reads only while it is at most 5 s old: another instance that
does not reach Redis may have stored a newer report.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from vsyncd.cache.operations import CacheError
from vsyncd.cache.wiring import CacheServices
from vsyncd.core.context import current_context
from vsyncd.domains.payments.records import REPORT_TTL, ProcessorHealth, ProcessorReport
from vsyncd.observability.logs import logger
from vsyncd.postgres.consistency import ReadMode, read_preference
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import AnswerCodec, Mutation, Mutations, Outcome
from vsyncd.postgres.queries import Session, queries

_DOMAIN: Final = "payments"
_MAX_COPY_AGE_S: Final = 5.0
# Stores a report unless there is a newer one, and wakes the watchers of all instances.
_STORE: Final = """
local stored = redis.call('GET', KEYS[1])
if stored and tonumber(string.match(stored, '^%d+')) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
redis.call('PUBLISH', ARGV[4], KEYS[1])
return 1"""
_HEALTH: Final = AnswerCodec(ProcessorHealth)

_log = logger(__name__)


class HealthReading(NamedTuple):
    """The health of a processor, and the number of seconds for which the report is still valid."""

    health: ProcessorHealth
    valid_s: float = 0.0

    def after(self, seconds: float) -> "HealthReading":
        """Returns the reading after some time without further reports."""
        valid_s = self.valid_s - seconds
        return HealthReading(self.health if valid_s > 0 else self.health._replace(healthy=False), valid_s)


class HealthRepository:
    """The last report about each processor."""

    def __init__(self, database: Database, mutations: Mutations, cache: CacheServices | None) -> None:
        self._database = database
        self._mutations = mutations
        self._cache = cache
        self._queries = queries("vsyncd.domains.payments", database.schema)

    @property
    def channel(self) -> bytes | None:
        """The channel of Redis on which each report is announced, or None without Redis."""
        return self._cache.keys.of_domain(_DOMAIN, "health") if self._cache else None

    async def report(
        self, mutation: Mutation, processor: str, *, healthy: bool, min_response_time_ms: int
    ) -> ProcessorHealth:
        """Stores a report and returns it."""
        parameters = {"processor": processor, "healthy": healthy, "min_response_time_ms": min_response_time_ms}

        async def work(session: Session) -> Outcome[tuple[ProcessorHealth, int | None]]:
            report = ProcessorReport._make(await session.single(self._queries["report_health"], parameters))
            health = ProcessorHealth._make(report[:4])
            payload = {"healthy": healthy, "min_response_time_ms": min_response_time_ms}
            answer = _HEALTH.encode(health)
            return Outcome((health, report.revision), answer, payload, resource=f"processors/{processor}")

        async def replay(_session: Session, answer: bytes) -> tuple[ProcessorHealth, int | None]:
            return _HEALTH.decode(answer), None  # not copied: there may be newer reports

        health, revision = await self._mutations.execute(mutation, work, replay)
        if revision is not None and not mutation.validate_only:
            await self._store_copy(health, revision)
        return health

    async def get(self, processor: str) -> ProcessorHealth:
        """Returns the health of a processor."""
        preference = read_preference(current_context(), ReadMode.PRIMARY_PREFERRED)
        copy = await self._copy(processor) if preference.allows_cache else None
        return copy or (await self.read([processor]))[processor].health

    async def read(self, processors: Sequence[str]) -> dict[str, HealthReading]:
        """Reads the health of processors from PostgreSQL."""
        query, parameters = self._queries["health"], {"processors": list(processors)}
        rows = await self._database.read(lambda session: session.all(query, parameters), ReadMode.PRIMARY_PREFERRED)
        readings = {processor: HealthReading(ProcessorHealth(processor)) for processor in processors}
        for now, *columns in rows:
            report = ProcessorReport._make(columns)
            reading = HealthReading(ProcessorHealth._make(report[:4]), _remaining_s(report.reported_at, now))
            readings[report.processor] = reading.after(0)
        return readings

    async def _store_copy(self, health: ProcessorHealth, revision: int) -> None:
        if self._cache is None:
            return
        key, ttl_ms = self._key(self._cache, health.processor), REPORT_TTL // timedelta(milliseconds=1)
        values = (revision, _HEALTH.encode(health), ttl_ms, self._cache.keys.of_domain(_DOMAIN, "health"))
        try:
            await self._cache.cache.run_script("report_health", _STORE, [key], *values, stores=True)
        except CacheError as error:
            _log.debug("a report is not copied to Redis", error=str(error))

    async def _copy(self, processor: str) -> ProcessorHealth | None:
        if self._cache is None:
            return None
        try:
            value, ttl = await self._cache.cache.get_with_ttl(self._key(self._cache, processor))
            if value is None or REPORT_TTL.total_seconds() - ttl > _MAX_COPY_AGE_S:
                return None
            return _HEALTH.decode(value.partition(b" ")[2])
        except (CacheError, ValueError):
            return None

    @staticmethod
    def _key(cache: CacheServices, processor: str) -> bytes:
        return cache.keys.of_domain(_DOMAIN, "processor", processor)


def _remaining_s(reported_at: datetime, now: datetime) -> float:
    """Returns for how long a report is still valid. One of the far future was written while a clock was ahead."""
    age = now - reported_at
    return (REPORT_TTL - age).total_seconds() if age >= -REPORT_TTL else 0.0
