"""Checks without being asked, so that load balancers and watchers hear of a change nobody asked about."""

import asyncio
import contextlib
from typing import Final

from vsyncd.health.aggregate import aggregate
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.readiness import Readiness, observations_for
from vsyncd.health.records import Status, Verdict
from vsyncd.health.registry import DependencyRegistry
from vsyncd.observability.logs import logger

# Seconds between two rounds: while something is amiss, and the most while all is well, whatever
# DB_HEALTH_CHECK_INTERVAL says. An outage takes an instance out of service after at most
# SLOWEST + (readiness.MAX_FAILURES - 1) * AMISS seconds, and the checks' own time.
AMISS: Final = 1.0
SLOWEST: Final = 5.0
# The least, whoever asks for one.
LEAST: Final = 0.1

_log = logger(__name__)


class HealthMonitor:
    """Runs the checks in rounds and tells `serving` what they come to. `interval`: seconds between rounds when all is
    well, at most SLOWEST."""

    def __init__(self, board: DependencyRegistry, serving: ServingStatus, *, interval: float) -> None:
        self._board = board
        self._serving = serving
        self._interval = min(interval, SLOWEST)
        self._readiness = Readiness()
        self._by_set: dict[str, Readiness] = {}
        self._verdict: Verdict | None = None
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Check everything now: somebody has seen something."""
        self._asked.set()

    async def start(self) -> None:
        """Begin, with a round at once, which is not waited for."""
        self._task = asyncio.create_task(self._run(), name="health monitor")

    def begin_shutdown(self) -> None:
        """First of all at shutdown: send no more calls here. Checks still answer who asks, and watches go on."""
        self._serving.shut_down()

    async def stop(self) -> None:
        """Last: end the rounds and whatever the checks keep open."""
        self.begin_shutdown()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        await self._board.close()

    async def _run(self) -> None:
        while True:
            well = await self._round()
            await self._pause(self._interval if well else min(AMISS, self._interval))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()
                await asyncio.sleep(min(LEAST, seconds))  # however many have seen it
        self._asked.clear()

    async def _round(self) -> bool:
        """Check everything; whether all is well."""
        observations = await self._board.observe(anew=True)
        verdict = aggregate(observations)
        self._readiness = self._readiness.after(verdict.status)
        self._by_set = {
            name: self._by_set.get(name, Readiness()).after(aggregate(observations_for(name, observations)).status)
            for name in self._serving.migration_sets
        }
        by_set = {name: readiness.serving for name, readiness in self._by_set.items()}
        self._serving.set_ready(ready=self._readiness.serving, by_set=by_set)
        if verdict != self._verdict:
            log = _log.info if verdict.status is Status.HEALTHY else _log.warning
            log("health", status=verdict.status.name, why=verdict.message, serving=self._readiness.serving)
            self._verdict = verdict
        return verdict.status is Status.HEALTHY
