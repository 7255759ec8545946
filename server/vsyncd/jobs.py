"""Work that comes round by itself: each job at its interval, one run at a time, until the service stops."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vsyncd.errors import Failure
from vsyncd.logs import logger

_log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do every `interval` seconds, the first time at once."""

    name: str
    interval: float
    work: Callable[[], Awaitable[object]]


class JobRunner:
    """Runs jobs in the background. A run that fails is logged; the next one comes at its time."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._repeat(job), name=job.name) for job in self._jobs]

    async def stop(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @staticmethod
    async def _repeat(job: Job) -> None:
        while True:
            try:
                await job.work()
            except Failure as failure:
                _log.warning("job failed", job=job.name, reason=failure.reason)
            await asyncio.sleep(job.interval)
