"""grpc.health.v1.Health, as load balancers, Kubernetes and grpc_health_probe use it.

This does not use the servicer of grpcio-health-checking, only its messages. That servicer answers SERVING before
anything is known, has no List, writes to a watcher under a lock (so that a watcher that does not read delays all
others), and leaves watches open at shutdown, where they would use up the whole grace period.
"""

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1.health_pb2_grpc import HealthServicer

from vsyncd.core.context import Context
from vsyncd.resilience.tasks import Broadcast

ListRequest = Any  # pb.HealthListRequest: the published types of grpc_health are older than List
_list_response = pb.HealthListResponse  # type: ignore[attr-defined]  # as above

LIVENESS: Final = "liveness"
READINESS: Final = "readiness"
OVERALL: Final = ""
SERVICE_NAME: Final = "grpc.health.v1.Health"

_SERVING: Final = pb.HealthCheckResponse.SERVING
_NOT_SERVING: Final = pb.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = pb.HealthCheckResponse.SERVICE_UNKNOWN
_NO_SETS: Final[Mapping[str, bool]] = MappingProxyType({})


class ServingStatus(HealthServicer):
    """The status of each name.

    `liveness` is SERVING while the process runs. `""` and `readiness` follow `ready`; each served service follows its
    migration set. All but `liveness` are NOT_SERVING until `set_ready`, and for good after `shut_down`. `ready`: all
    served services can be called here.
    """

    def __init__(self) -> None:
        self._set_of: dict[str, str] = {}
        self.ready = False
        self._by_set = _NO_SETS
        self._changes = Broadcast()

    def add(self, services: Mapping[str, str]) -> None:
        """Adds services by their full names, each with its migration set."""
        self._set_of.update(services)
        self._changes.announce()

    @property
    def migration_sets(self) -> frozenset[str]:
        """The migration sets of the served services."""
        return frozenset(self._set_of.values())

    def set_ready(self, *, ready: bool, by_set: Mapping[str, bool] = _NO_SETS) -> None:
        """Sets whether calls can be sent here; has no effect after `shut_down`.

        `by_set` has the same for the services of each migration set; where it has no entry, `ready` counts.
        """
        if self._changes.ended or (ready == self.ready and by_set == self._by_set):
            return
        self.ready, self._by_set = ready, MappingProxyType(dict(by_set))
        self._changes.announce()

    def shut_down(self) -> None:
        """Sets NOT_SERVING for good. Each watcher receives it and its stream ends: it is specified to ask again."""
        self.ready, self._by_set = False, _NO_SETS
        self._changes.end()

    async def Check(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        """Returns the status of a name; answers NOT_FOUND for an unknown one."""
        status = self._status(request.service)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no service of that name is served here")
        return pb.HealthCheckResponse(status=status)

    async def List(self, request: ListRequest, context: Context) -> Any:  # noqa: ANN401 - see above
        names = sorted({LIVENESS, OVERALL, READINESS, *self._set_of})
        return _list_response(statuses={name: pb.HealthCheckResponse(status=self._status(name)) for name in names})

    async def Watch(self, request: pb.HealthCheckRequest, context: Context) -> AsyncIterator[pb.HealthCheckResponse]:
        """Sends the present status, then each change. An unknown name is SERVICE_UNKNOWN until it is served."""
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
        if name in {OVERALL, READINESS}:
            return _SERVING if self.ready else _NOT_SERVING
        if name not in self._set_of:
            return _UNKNOWN
        return _SERVING if self._by_set.get(self._set_of[name], self.ready) else _NOT_SERVING
