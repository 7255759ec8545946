"""vsync.health.v1.Health: the treasury health contract."""

from collections.abc import AsyncIterator

from vsync.health.v1 import health_pb2 as pb
from vsync.health.v1.health_pb2_grpc import HealthServicer

from vsyncd.core.context import Context
from vsyncd.core.validation import Validator
from vsyncd.health.registry import DependencyRegistry
from vsyncd.health.reports import Reports


class HealthService(HealthServicer):
    """How this process and what it depends on are."""

    def __init__(self, board: DependencyRegistry, reports: Reports) -> None:
        self._board = board
        self._reports = reports

    async def GetLiveness(self, request: pb.LivenessRequest, context: Context) -> pb.LivenessResponse:
        """See health.proto. Waits for nothing."""
        return self._reports.liveness()

    async def GetHealth(self, request: pb.HealthRequest, context: Context) -> pb.HealthResponse:
        """See health.proto. With a filter, the status is that of the dependencies it names."""
        return await self._reports.health(self._read_filter(request), details=request.include_details)

    async def WatchHealth(self, request: pb.HealthRequest, context: Context) -> AsyncIterator[pb.HealthResponse]:
        """See health.proto. A slow reader misses what came and went meanwhile."""
        names = self._read_filter(request)
        sent: list[tuple[object, ...]] | None = None
        while True:
            change = self._board.changes.next()
            report = await self._reports.health(names, details=request.include_details)
            state: list[tuple[object, ...]] = [(seen.name, seen.status, seen.message) for seen in report.dependencies]
            if state != sent:
                yield report
                sent = state
            if self._board.changes.ended:
                return
            await change.wait()

    def _read_filter(self, request: pb.HealthRequest) -> frozenset[str]:
        """The dependencies to check; empty for all. Raises InvalidFields for what is none."""
        validator = Validator()
        known = self._board.names
        for index, name in enumerate(request.dependency_filter):
            if name not in known:
                validator.add(f"dependency_filter[{index}]", f"must be one of {', '.join(known)}")
        validator.raise_any()
        return frozenset(request.dependency_filter)
