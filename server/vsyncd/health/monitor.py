"""Checks the dependencies in rounds, so that load balancers and watchers learn of changes without a request."""

import asyncio
import contextlib
from typing import Final

from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.status import Readiness, Status, Verdict, aggregate, observations_for
from vsyncd.observability.logs import logger
from vsyncd.resilience.tasks import cancel_and_wait

# The interval between rounds while a dependency is impaired, and the maximum of DB_HEALTH_CHECK_INTERVAL, which applies
# otherwise. An outage ends readiness after at most MAX_INTERVAL_S + (readiness.MAX_FAILURES - 1) * IMPAIRED_INTERVAL_S,
# plus the duration of the checks.
IMPAIRED_INTERVAL_S: Final = 1.0
MAX_INTERVAL_S: Final = 5.0
# The minimum interval, however many rounds are requested.
MIN_INTERVAL_S: Final = 0.1

_log = logger(__name__)


class HealthMonitor:
    """Runs the checks in rounds and updates `serving`. `interval` is the number of seconds between rounds."""

    def __init__(self, registry: DependencyRegistry, serving: ServingStatus, *, interval: float) -> None:
        self._registry = registry
        self._serving = serving
        self._interval = min(interval, MAX_INTERVAL_S)
        self._readiness = Readiness()
        self._by_set: dict[str, Readiness] = {}
        self._verdict: Verdict | None = None
        self._requested = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def check_now(self) -> None:
        self._requested.set()

    async def start(self) -> None:
        """Starts the rounds, and does not wait for the first one."""
        self._task = asyncio.create_task(self._run(), name="health monitor")

    def begin_shutdown(self) -> None:
        """Ends readiness, as the first step of a shutdown. Checks and watches continue."""
        self._serving.shut_down()

    async def stop(self) -> None:
        """Stops the rounds and closes the checkers, as the last step of a shutdown."""
        self.begin_shutdown()
        if self._task is not None:
            await cancel_and_wait([self._task])
            self._task = None
        await self._registry.close()

    async def _run(self) -> None:
        while True:
            healthy = await self._check_all()
            await self._pause(self._interval if healthy else min(IMPAIRED_INTERVAL_S, self._interval))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._requested.wait()
                await asyncio.sleep(min(MIN_INTERVAL_S, seconds))
        self._requested.clear()

    async def _check_all(self) -> bool:
        """Runs one round. Returns whether everything is healthy."""
        observations = await self._registry.observe(force=True)
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
