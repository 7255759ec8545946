"""grpc.health.v1.Health, as load balancers, Kubernetes and grpc_health_probe use it.

Not grpcio-health-checking's own servicer, but its messages: that one says SERVING before anything is known, has no
List, writes to a watcher under a lock (so that one who does not read holds up the news for all), and leaves watchers
open at shutdown, where they would use up the whole grace period.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1.health_pb2_grpc import HealthServicer

from vsyncd.core.context import Context
from vsyncd.health.broadcast import Broadcast

ListRequest = Any  # pb.HealthListRequest: the types that are published for grpc_health are older than List
_list_response = pb.HealthListResponse  # type: ignore[attr-defined]  # likewise

LIVENESS: Final = "liveness"
READINESS: Final = "readiness"
OVERALL: Final = ""
SERVICE_NAME: Final = "grpc.health.v1.Health"

_SERVING: Final = pb.HealthCheckResponse.SERVING
_NOT_SERVING: Final = pb.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = pb.HealthCheckResponse.SERVICE_UNKNOWN


class ServingStatus(HealthServicer):
    """What is said to whoever asks where calls are to be sent.

    `liveness` is SERVING from the begin to the end of the process. `""`, `readiness` and the full name of each served
    service are NOT_SERVING until `set_ready`, and for good from `shut_down` on.
    """

    def __init__(self) -> None:
        self._names = {OVERALL, READINESS}
        self._ready = False
        self._changes = Broadcast()

    def add(self, services: Iterable[str]) -> None:
        """Answer for these services as well, by their full names."""
        self._names.update(services)
        self._changes.announce()

    @property
    def ready(self) -> bool:
        """Whether calls are to be sent here."""
        return self._ready

    def set_ready(self, *, ready: bool) -> None:
        """Say whether calls are to be sent here. After `shut_down` it stays at no."""
        if self._changes.ended or ready == self._ready:
            return
        self._ready = ready
        self._changes.announce()

    def shut_down(self) -> None:
        """NOT_SERVING, for good. Every watcher is told, and its stream ends: the specification has it ask again."""
        self._ready = False
        self._changes.end()

    async def Check(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        """NOT_FOUND for a name that is none of ours."""
        status = self._status(request.service)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no service of that name is served here")
        return pb.HealthCheckResponse(status=status)

    async def List(self, request: ListRequest, context: Context) -> Any:  # noqa: ANN401 - see above
        """Every name."""
        names = sorted({LIVENESS, *self._names})
        return _list_response(statuses={name: pb.HealthCheckResponse(status=self._status(name)) for name in names})

    async def Watch(self, request: pb.HealthCheckRequest, context: Context) -> AsyncIterator[pb.HealthCheckResponse]:
        """The present status, then each change. SERVICE_UNKNOWN for a name that is none of ours, which may change."""
        sent = None
        while True:
            change = self._changes.next()
            status = self._status(request.service)
            if status != sent:
                yield pb.HealthCheckResponse(status=status)
                sent = status
            if self._changes.ended:
                return
            await change.wait()

    def _status(self, name: str) -> int:
        if name == LIVENESS:
            return _SERVING
        if name not in self._names:
            return _UNKNOWN
        return _SERVING if self._ready else _NOT_SERVING
