"""vsync.health.v1.Health, the treasury health contract. HTTP serves the same reports as JSON."""

import time
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from typing import Final

from vsync.health.v1 import health_pb2 as pb
from vsync.health.v1.health_pb2_grpc import HealthServicer

from vsyncd.core.context import Context, current_context
from vsyncd.core.grants import Role
from vsyncd.core.validation import Validator
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.process import ProcessResources
from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.status import Observation, Status, aggregate

COMPONENTS: Final = ("config", "grpc_server", "database_pool", "cache")


class Liveness:
    """The components of this process. The composition root marks each one when it is initialised."""

    def __init__(self) -> None:
        self._components = {name: pb.ComponentCheck(name=name, message="not initialised") for name in COMPONENTS}

    def mark(self, name: str, *, ready: bool = True, message: str = "initialised") -> None:
        """Sets the state of a component. Raises KeyError if it is not in COMPONENTS."""
        component = self._components[name]
        component.ready, component.message = ready, message

    def is_ready(self, name: str) -> bool:
        return self._components[name].ready

    @property
    def components(self) -> list[pb.ComponentCheck]:
        return list(self._components.values())

    @property
    def alive(self) -> bool:
        return all(component.ready for component in self._components.values())

    @property
    def message(self) -> str:
        """The reason for the liveness, as a sentence."""
        missing = [component.name for component in self._components.values() if not component.ready]
        return f"Not initialised: {', '.join(missing)}." if missing else "The process is alive."


class Reports:
    """Reports the liveness, readiness and health of this process."""

    def __init__(
        self,
        registry: DependencyRegistry,
        liveness: Liveness,
        serving: ServingStatus,
        resources: ProcessResources | None = None,
    ) -> None:
        """`resources` is None in a report without the resources of the process."""
        self._registry = registry
        self._resources = resources
        self._liveness = liveness
        self._serving = serving

    def liveness(self) -> pb.LivenessResponse:
        return pb.LivenessResponse(
            status=pb.HEALTHY if self._liveness.alive else pb.UNHEALTHY,
            message=self._liveness.message,
            checks=self._liveness.components,
            checked_at=_now(),
        )

    def readiness(self) -> pb.LivenessResponse:
        """Returns whether the process serves calls, from memory. UNHEALTHY: it does not."""
        observations, ready = self._registry.last(), self._serving.ready
        verdict = aggregate(observations)
        # The verdict can differ from readiness, which follows it with a delay.
        served = Status.DEGRADED if verdict.status is not Status.HEALTHY else Status.HEALTHY
        return pb.LivenessResponse(
            status=_status(served if ready else Status.UNHEALTHY),
            message=("Calls are served. " if ready else "Calls are not served now. ") + verdict.message,
            checks=[
                pb.ComponentCheck(name=seen.name, ready=seen.status is not Status.UNHEALTHY, message=seen.message)
                for seen in observations
            ],
            checked_at=_now(),
        )

    async def health(self, names: Collection[str] = (), *, details: bool) -> pb.HealthResponse:
        """Checks the dependencies with these names (default: all). The status is derived from them only.

        Raises KeyError for an unknown name.
        """
        started = time.monotonic()
        observations = await self._registry.observe(names)
        verdict = aggregate(observations)
        dependencies = [
            _dependency(seen, self._registry.details(seen.name) if details else None) for seen in observations
        ]
        return pb.HealthResponse(
            status=_status(verdict.status),
            message=verdict.message,
            liveness=pb.LivenessInfo(
                is_alive=self._liveness.alive,
                config_loaded=self._liveness.is_ready("config"),
                pools_ready=self._liveness.is_ready("database_pool"),
                cache_warmed=self._liveness.is_ready("cache"),
                components=self._liveness.components,
            ),
            dependencies=dependencies,
            checked_at=_now(),
            check_duration_ms=round((time.monotonic() - started) * 1000),
            process=await self._resources.read() if details and self._resources else None,
        )


def _dependency(observation: Observation, details: pb.DependencyConfig | None) -> pb.DependencyHealth:
    if details is not None and observation.last_error_at is not None:
        details.metadata["last_error_at"] = _text(observation.last_error_at)
    return pb.DependencyHealth(
        name=observation.name,
        type=observation.kind,
        status=_status(observation.status),
        is_critical=observation.is_critical,
        message=observation.message,
        config=details,
        last_success=_text(observation.last_success),
        last_check=_text(observation.last_check),
        response_time_ms=observation.response_time_ms,
        error=observation.error,
    )


def _status(status: Status) -> pb.ServiceStatus.ValueType:
    return pb.ServiceStatus.ValueType(status.value)


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(time: datetime | None) -> str:
    """Returns RFC 3339 in UTC with milliseconds, or an empty text for None."""
    return "" if time is None else time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _with_details(request: pb.HealthRequest) -> bool:
    """Returns whether the caller wants details and may see them: they contain hosts and versions."""
    return request.include_details and Role.OPERATOR in current_context().grant.roles


class HealthService(HealthServicer):
    """See health.proto for the methods."""

    def __init__(self, registry: DependencyRegistry, reports: Reports) -> None:
        self._registry = registry
        self._reports = reports

    async def GetLiveness(self, request: pb.LivenessRequest, context: Context) -> pb.LivenessResponse:
        return self._reports.liveness()

    async def GetHealth(self, request: pb.HealthRequest, context: Context) -> pb.HealthResponse:
        return await self._reports.health(self._read_filter(request), details=_with_details(request))

    async def WatchHealth(self, request: pb.HealthRequest, context: Context) -> AsyncIterator[pb.HealthResponse]:
        """Sends the present state and then each change. A slow reader misses intermediate states."""
        names, details = self._read_filter(request), _with_details(request)
        sent: list[tuple[object, ...]] | None = None
        while True:
            change = self._registry.changes.next()
            report = await self._reports.health(names, details=details)
            state: list[tuple[object, ...]] = [(seen.name, seen.status, seen.message) for seen in report.dependencies]
            if state != sent:
                yield report
                sent = state
            if self._registry.changes.ended:
                return
            await change.wait()

    def _read_filter(self, request: pb.HealthRequest) -> frozenset[str]:
        """Returns the dependencies to check; empty for all. Raises InvalidFields for an unknown name."""
        with Validator() as validator:
            known = self._registry.names
            for index, name in enumerate(request.dependency_filter):
                if name not in known:
                    validator.add(f"dependency_filter[{index}]", f"must be one of {', '.join(known)}")
        return frozenset(request.dependency_filter)
