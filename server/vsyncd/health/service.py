"""vsync.health.v1.Health: the treasury health contract."""

from collections.abc import AsyncIterator

from vsync.health.v1 import health_pb2 as pb
from vsync.health.v1.health_pb2_grpc import HealthServicer

from vsyncd.core.context import Context
from vsyncd.core.validation import Validator
from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.reports import Reports


class HealthService(HealthServicer):
    """Reports the health of this process and its dependencies."""

    def __init__(self, registry: DependencyRegistry, reports: Reports) -> None:
        self._registry = registry
        self._reports = reports

    async def GetLiveness(self, request: pb.LivenessRequest, context: Context) -> pb.LivenessResponse:
        """Reports liveness from memory (see health.proto)."""
        return self._reports.liveness()

    async def GetHealth(self, request: pb.HealthRequest, context: Context) -> pb.HealthResponse:
        """Checks the dependencies. With a filter, the status is that of the named dependencies (see health.proto)."""
        return await self._reports.health(self._read_filter(request), details=request.include_details)

    async def WatchHealth(self, request: pb.HealthRequest, context: Context) -> AsyncIterator[pb.HealthResponse]:
        """Sends the present state and then each change. A slow reader misses intermediate states (see health.proto)."""
        names = self._read_filter(request)
        sent: list[tuple[object, ...]] | None = None
        while True:
            change = self._registry.changes.next()
            report = await self._reports.health(names, details=request.include_details)
            state: list[tuple[object, ...]] = [(seen.name, seen.status, seen.message) for seen in report.dependencies]
            if state != sent:
                yield report
                sent = state
            if self._registry.changes.ended:
                return
            await change.wait()

    def _read_filter(self, request: pb.HealthRequest) -> frozenset[str]:
        """Returns the dependencies to check; empty for all. Raises InvalidFields for an unknown name."""
        validator = Validator()
        known = self._registry.names
        for index, name in enumerate(request.dependency_filter):
            if name not in known:
                validator.add(f"dependency_filter[{index}]", f"must be one of {', '.join(known)}")
        validator.raise_any()
        return frozenset(request.dependency_filter)
