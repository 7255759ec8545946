"""How this process and what it depends on are, as the contract's messages; whoever asks, by gRPC or by HTTP."""

import time
from collections.abc import Collection

from vsync.health.v1 import health_pb2 as pb

from vsyncd.health.aggregate import aggregate
from vsyncd.health.grpc_service import ServingStatus
from vsyncd.health.liveness import Liveness
from vsyncd.health.messages import dependency_health, health_response, liveness_response, readiness_response
from vsyncd.health.registry import DependencyRegistry


class Reports:
    """Makes reports."""

    def __init__(self, board: DependencyRegistry, liveness: Liveness, serving: ServingStatus) -> None:
        self._board = board
        self._liveness = liveness
        self._serving = serving

    def liveness(self) -> pb.LivenessResponse:
        """The process, from memory."""
        return liveness_response(self._liveness)

    def readiness(self) -> pb.LivenessResponse:
        """Whether calls are to be sent here, from memory; `checks` are the dependencies as last seen."""
        return readiness_response(self._board.last(), ready=self._serving.ready)

    async def health(self, names: Collection[str] = (), *, details: bool) -> pb.HealthResponse:
        """The dependencies of these names (none: all), checked; the status is theirs. Raises KeyError for a name that
        is not one."""
        started = time.monotonic()
        observations = await self._board.observe(names)
        dependencies = [
            dependency_health(seen, self._board.details(seen.name) if details else None) for seen in observations
        ]
        duration_ms = round((time.monotonic() - started) * 1000)
        return health_response(aggregate(observations), self._liveness, dependencies, duration_ms=duration_ms)
