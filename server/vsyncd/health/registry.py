"""Checks the dependencies of this process: in parallel, with a time limit, and with reuse of recent results."""

import asyncio
import time
from collections.abc import Collection, Sequence
from contextvars import Context
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final, Protocol

from vsync.health.v1 import health_pb2 as pb

from vsyncd.health.status import Finding, Observation, Status
from vsyncd.observability.logs import logger
from vsyncd.postgres.error_mapping import TIMEOUT
from vsyncd.resilience.tasks import Broadcast

_NO_CALL: Final = Context()
_log = logger(__name__)


class DependencyChecker(Protocol):
    """Checks one dependency. Dependency decides when to check, and limits the time.

    `name` is its name in reports and filters, for example postgresql-primary. `is_critical`: the service cannot work
    without it.
    """

    name: str
    kind: pb.DependencyType.ValueType
    is_critical: bool

    async def check(self) -> Finding:
        """Checks the dependency. Returns a failure as a finding. A cancelled check ends soon."""

    def details(self) -> pb.DependencyConfig:
        """Returns the address, the version and the pool, from memory. Contains neither user names nor passwords."""

    async def close(self) -> None: ...


class Dependency:
    """Runs a checker. Times are in seconds.

    Concurrent callers share one check. A check that exceeds `timeout` is reported as a timeout and cancelled. No other
    check begins before it has ended, however long that takes.
    """

    def __init__(self, checker: DependencyChecker, *, timeout: float) -> None:
        self.name = checker.name
        self.kind = checker.kind
        self._checker = checker
        self._timeout = timeout
        self._shared: asyncio.Task[Observation] | None = None
        self._check_task: asyncio.Task[Finding] | None = None
        self._last: Observation | None = None
        self._last_at = 0.0

    async def observe(self, *, max_age: float) -> Observation:
        """Returns the last observation if it is younger than `max_age`, or else the result of a check."""
        if self._last is not None and time.monotonic() - self._last_at < max_age:
            return self._last
        if self._shared is None or self._shared.done():
            # In its own context, because the check does not belong to a single call.
            self._shared = asyncio.get_running_loop().create_task(self._observe(), context=_NO_CALL.copy())
        return await asyncio.shield(self._shared)

    def details(self) -> pb.DependencyConfig:
        return self._checker.details()

    async def close(self) -> None:
        tasks = [task for task in (self._shared, self._check_task) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._checker.close()

    async def _observe(self) -> Observation:
        before, started_at, started = self._last, datetime.now(UTC), time.monotonic()
        finding = await self._check_until(started + self._timeout)
        failed = finding.status is Status.UNHEALTHY
        self._last_at = time.monotonic()
        self._last = Observation(
            name=self.name,
            kind=self.kind,
            is_critical=self._checker.is_critical,
            **asdict(finding),
            last_check=started_at,
            last_success=(before.last_success if before else None) if failed else started_at,
            last_error_at=started_at if failed else (before.last_error_at if before else None),
            response_time_ms=round((self._last_at - started) * 1000),
        )
        return self._last

    async def _check_until(self, deadline: float) -> Finding:
        """Returns the finding of a check, or a timeout at the deadline (on the monotonic clock)."""
        if self._check_task is not None and not await self._ends(self._check_task, deadline):
            return self._timed_out()
        check = self._check_task = asyncio.create_task(self._check())
        if not await self._ends(check, deadline):
            check.cancel()
            return self._timed_out()
        return check.result()

    async def _check(self) -> Finding:
        try:
            return await self._checker.check()
        except Exception as error:  # noqa: BLE001 - a defect of one checker must not affect the others or the monitor
            _log.error("health check raised an unexpected error", dependency=self.name, error=type(error).__qualname__)
            return Finding(status=Status.UNHEALTHY, message="its check failed unexpectedly", error="internal error")

    def _timed_out(self) -> Finding:
        message = f"no answer within {self._timeout * 1000:.0f} ms"
        return Finding(status=Status.UNHEALTHY, message=message, error=TIMEOUT)

    @staticmethod
    async def _ends(task: asyncio.Task[Finding], deadline: float) -> bool:
        done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
        return bool(done)


class DependencyRegistry:
    """The dependencies of this process.

    `timeout` limits the seconds of a check. `max_age` is the number of seconds for which its result is reused.
    """

    def __init__(self, checkers: Sequence[DependencyChecker], *, timeout: float, max_age: float) -> None:
        self._dependencies = {checker.name: Dependency(checker, timeout=timeout) for checker in checkers}
        self._max_age = max_age
        self._known: dict[str, tuple[Status, str]] = {}
        self._last: dict[str, Observation] = {}
        self.changes = Broadcast()

    @property
    def names(self) -> list[str]:
        return list(self._dependencies)

    def names_of(self, kind: pb.DependencyType.ValueType) -> list[str]:
        return [name for name, dependency in self._dependencies.items() if dependency.kind == kind]

    async def observe(self, names: Collection[str] = (), *, force: bool = False) -> list[Observation]:
        """Returns the state of the dependencies with these names (default: all), in order. `force`: check each now.

        Raises KeyError for an unknown name.
        """
        chosen = [self._dependencies[name] for name in self._dependencies if not names or name in names]
        if unknown := set(names) - self._dependencies.keys():
            raise KeyError(*unknown)
        max_age = 0.0 if force else self._max_age
        observations = await asyncio.gather(*(dependency.observe(max_age=max_age) for dependency in chosen))
        self._store(observations)
        return observations

    def last(self) -> list[Observation]:
        """Returns the last observation of each dependency that was checked, from memory."""
        return [self._last[name] for name in self._dependencies if name in self._last]

    def details(self, name: str) -> pb.DependencyConfig:
        """Returns the details of a dependency, from memory. Raises KeyError."""
        return self._dependencies[name].details()

    async def close(self) -> None:
        self.changes.end()
        await asyncio.gather(*(dependency.close() for dependency in self._dependencies.values()))

    def _store(self, observations: Sequence[Observation]) -> None:
        self._last |= {seen.name: seen for seen in observations}
        states = {seen.name: (seen.status, seen.message) for seen in observations}
        if self._known | states != self._known:
            self._known |= states
            self.changes.announce()
