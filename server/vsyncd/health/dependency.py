"""One dependency: checked at most once at a time, for a bounded time, and remembered."""

import asyncio
import time
from contextvars import Context
from datetime import UTC, datetime
from typing import Final

from vsyncd.health.checker import DependencyChecker
from vsyncd.health.records import Details, Finding, Observation, Status
from vsyncd.observability.logs import logger
from vsyncd.postgres.error_categories import TIMEOUT

_NO_CALL: Final = Context()
_log = logger(__name__)


class Dependency:
    """Runs a checker. Times are in seconds.

    Whoever asks while a check is under way gets that one's result. A check that takes longer than `timeout` is reported
    as such, and cancelled; until it has ended no other one begins, however long that takes.
    """

    def __init__(self, checker: DependencyChecker, *, timeout: float) -> None:
        self.name = checker.name
        self.kind = checker.kind
        self._checker = checker
        self._timeout = timeout
        self._flight: asyncio.Task[Observation] | None = None
        self._attempt: asyncio.Task[Finding] | None = None
        self._last: Observation | None = None
        self._last_at = 0.0

    async def observe(self, *, max_age: float) -> Observation:
        """The last observation when it is younger than `max_age`, else that of a check."""
        if self._last is not None and time.monotonic() - self._last_at < max_age:
            return self._last
        if self._flight is None or self._flight.done():
            # In a context of its own: a check is nobody's call, and others wait for it too.
            self._flight = asyncio.get_running_loop().create_task(self._fly(), context=_NO_CALL.copy())
        return await asyncio.shield(self._flight)

    def details(self) -> Details:
        """What is known of it, from memory."""
        return self._checker.details()

    async def close(self) -> None:
        """End what is under way, then the checker."""
        tasks = [task for task in (self._flight, self._attempt) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._checker.close()

    async def _fly(self) -> Observation:
        before, started_at, started = self._last, datetime.now(UTC), time.monotonic()
        finding = await self._bounded(started + self._timeout)
        failed = finding.status is Status.UNHEALTHY
        self._last_at = time.monotonic()
        self._last = Observation(
            name=self.name,
            kind=self.kind,
            is_critical=self._checker.is_critical,
            status=finding.status,
            message=finding.message,
            error=finding.error,
            serves_reads=finding.serves_reads,
            missing_sets=finding.missing_sets,
            last_check=started_at,
            last_success=(before.last_success if before else None) if failed else started_at,
            last_error_at=started_at if failed else (before.last_error_at if before else None),
            response_time_ms=round((self._last_at - started) * 1000),
        )
        return self._last

    async def _bounded(self, deadline: float) -> Finding:
        """What an attempt finds until the deadline, on the monotonic clock."""
        if self._attempt is not None and not await self._ends(self._attempt, deadline):
            return self._too_late()
        attempt = asyncio.create_task(self._check())
        self._attempt = attempt
        if not await self._ends(attempt, deadline):
            attempt.cancel()
            return self._too_late()
        return attempt.result()

    async def _check(self) -> Finding:
        try:
            return await self._checker.check()
        except Exception as error:  # noqa: BLE001 - a defect in one checker must not blind the others, or the monitor
            _log.error("a health check is defective", dependency=self.name, error=type(error).__qualname__)
            return Finding(status=Status.UNHEALTHY, message="its check is defective", error="internal error")

    def _too_late(self) -> Finding:
        message = f"no answer within {self._timeout * 1000:.0f} ms"
        return Finding(status=Status.UNHEALTHY, message=message, error=TIMEOUT)

    @staticmethod
    async def _ends(task: asyncio.Task[Finding], deadline: float) -> bool:
        done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
        return bool(done)
