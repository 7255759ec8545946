"""vsync.health.v1.Health: the treasury health contract."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from vsync.health.v1 import health_pb2 as pb
from vsync.health.v1.health_pb2_grpc import HealthServicer

from vsyncd.fields import Problems
from vsyncd.health.board import Board
from vsyncd.health.liveness import Liveness
from vsyncd.health.messages import dependency_health, health_response, liveness_response
from vsyncd.health.overall import verdict_on
from vsyncd.health.records import Observation

Context = Any  # grpc.aio.ServicerContext, of no interest here


class HealthService(HealthServicer):
    """How this process and what it depends on are."""

    def __init__(self, board: Board, liveness: Liveness) -> None:
        self._board = board
        self._liveness = liveness

    async def GetLiveness(self, request: pb.LivenessRequest, context: Context) -> pb.LivenessResponse:
        """See health.proto. Waits for nothing."""
        return liveness_response(self._liveness)

    async def GetHealth(self, request: pb.HealthRequest, context: Context) -> pb.HealthResponse:
        """See health.proto. With a filter, the status is that of the dependencies it names."""
        names = self._read_filter(request)
        started = time.monotonic()
        observations = await self._board.observe(names)
        return self._response(request, observations, started)

    async def WatchHealth(self, request: pb.HealthRequest, context: Context) -> AsyncIterator[pb.HealthResponse]:
        """See health.proto. A slow reader misses what came and went meanwhile."""
        names = self._read_filter(request)
        sent: list[tuple[object, ...]] | None = None
        while True:
            change = self._board.changes.next()
            started = time.monotonic()
            observations = await self._board.observe(names)
            state: list[tuple[object, ...]] = [(seen.name, seen.status, seen.message) for seen in observations]
            if state != sent:
                yield self._response(request, observations, started)
                sent = state
            if self._board.changes.ended:
                return
            await change.wait()

    def _read_filter(self, request: pb.HealthRequest) -> frozenset[str]:
        """The dependencies to check; empty for all. Raises InvalidFields for what is none."""
        problems = Problems()
        known = self._board.names
        for index, name in enumerate(request.dependency_filter):
            if name not in known:
                problems.add(f"dependency_filter[{index}]", f"must be one of {', '.join(known)}")
        problems.raise_any()
        return frozenset(request.dependency_filter)

    def _response(
        self, request: pb.HealthRequest, observations: Sequence[Observation], started: float
    ) -> pb.HealthResponse:
        dependencies = [
            dependency_health(seen, self._board.details(seen.name) if request.include_details else None)
            for seen in observations
        ]
        duration_ms = round((time.monotonic() - started) * 1000)
        return health_response(verdict_on(observations), self._liveness, dependencies, duration_ms=duration_ms)
