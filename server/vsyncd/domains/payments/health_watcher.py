"""Tells the watchers of this instance when the health of a processor changes.

While there are watchers, one task reads the reports from PostgreSQL every half second, and at once when Redis announces
a report. So a change is noticed within a second without Redis too, and while Redis or the subscription is lost.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Final

from vsyncd.cache.operations import CacheError
from vsyncd.cache.wiring import CacheServices
from vsyncd.core.errors import ServiceError
from vsyncd.domains.payments.health_repository import HealthReading, HealthRepository
from vsyncd.domains.payments.records import ProcessorHealth
from vsyncd.observability.logs import logger
from vsyncd.resilience.tasks import cancel_and_wait

POLL_INTERVAL_S: Final = 0.5
_RETRY_S: Final = 1.0
# The maximum time of one wait for a message.
_MESSAGE_TIMEOUT_S: Final = 10.0

_log = logger(__name__)


class HealthWatcher:
    """Reads the health of all processors while anyone watches it. A BackgroundService."""

    def __init__(self, repository: HealthRepository, processors: Sequence[str], cache: CacheServices | None) -> None:
        self._repository = repository
        self._processors = processors
        self._cache = cache
        self._readings: dict[str, HealthReading] = {}
        self._read_at = 0.0
        self._failure: ServiceError | None = None
        self._watchers = 0
        self._wake = asyncio.Event()
        self._read = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts to read and to receive."""
        works = [self._read_all(), *([self._receive_all(self._cache)] if self._cache else [])]
        self._tasks = [asyncio.create_task(work, name="processor health") for work in works]

    async def stop(self) -> None:
        """Stops. The streams have ended before."""
        await cancel_and_wait(self._tasks)

    async def watch(self, processors: Sequence[str]) -> AsyncGenerator[list[ProcessorHealth]]:
        """Yields the health of processors, then what has changed. Raises ServiceError if it cannot be read at first."""
        self._watchers += 1
        try:
            sent: dict[str, tuple[bool, int]] = {}
            read = self._read  # the next read, because the present state may be old
            self._wake.set()
            while True:
                await read.wait()
                read = self._read
                if self._failure is not None and not sent:
                    raise self._failure
                age = asyncio.get_running_loop().time() - self._read_at
                present = [self._readings[name].after(age).health for name in processors]
                changed = [health for health in present if sent.get(health.processor) != _state(health)]
                sent |= {health.processor: _state(health) for health in changed}
                if changed:
                    yield changed
        finally:
            self._watchers -= 1

    async def _read_all(self) -> None:
        while True:
            self._wake.clear()
            if self._watchers:
                await self._read_once()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_INTERVAL_S if self._watchers else None)

    async def _read_once(self) -> None:
        read_at = asyncio.get_running_loop().time()
        try:
            self._readings, self._read_at = await self._repository.read(self._processors), read_at
            self._failure = None
        except ServiceError as failure:
            self._failure = failure
        read, self._read = self._read, asyncio.Event()
        read.set()

    async def _receive_all(self, cache: CacheServices) -> None:
        channel = self._repository.channel
        while channel is not None:
            await asyncio.sleep(0 if cache.breaker.closed else _RETRY_S)
            try:
                subscription = await cache.cache.subscribe(channel)
                try:
                    while True:
                        if await subscription.next_message(_MESSAGE_TIMEOUT_S) is not None:
                            self._wake.set()
                finally:
                    await subscription.close()
            except CacheError as error:
                _log.debug("reports are not received from Redis", error=str(error))
            await asyncio.sleep(_RETRY_S)


def _state(health: ProcessorHealth) -> tuple[bool, int]:
    return health.healthy, health.min_response_time_ms
