"""A gRPC service that this one needs, asked over grpc.health.v1 how it is."""

from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2 as pb

from vsyncd.config.endpoints import GrpcDependency
from vsyncd.health.records import Details, Finding, Kind, Status
from vsyncd.postgres.error_categories import TIMEOUT

_OPTIONS: Final = (
    # A service that is back should be found soon: by default gRPC waits up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A service next door is not asked through a proxy that stands in the environment for something else.
    ("grpc.enable_http_proxy", 0),
)
_CAUSES: Final = {
    grpc.StatusCode.UNAVAILABLE: "cannot connect",
    grpc.StatusCode.DEADLINE_EXCEEDED: TIMEOUT,
    grpc.StatusCode.UNIMPLEMENTED: "it does not serve grpc.health.v1",
    grpc.StatusCode.NOT_FOUND: "it does not say how it is as a whole",
    grpc.StatusCode.UNAUTHENTICATED: "authentication failed",
    grpc.StatusCode.PERMISSION_DENIED: "permission denied",
}


class GrpcChecker:
    """Asks for the status of the service "", which is the whole of it. `timeout`, in seconds, goes with the question:
    the service gives up when we do. Without TLS: the name is that of a neighbour."""

    kind = Kind.GRPC_SERVICE

    def __init__(self, dependency: GrpcDependency, *, timeout: float) -> None:
        self.name = dependency.name
        self.is_critical = dependency.is_critical
        self._endpoint = dependency.endpoint
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._ask: Any = None  # a method of the channel, generic over its messages

    async def check(self) -> Finding:
        """See DependencyChecker."""
        if self._channel is None:
            # Not before: a channel belongs to the loop that it is made in.
            self._channel = grpc.aio.insecure_channel(str(self._endpoint), options=_OPTIONS)
            self._ask = self._channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=pb.HealthCheckRequest.SerializeToString,
                response_deserializer=pb.HealthCheckResponse.FromString,
            )
        try:
            response = await self._ask(pb.HealthCheckRequest(), timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            # Its details may hold addresses.
            cause = _CAUSES.get(error.code(), f"answers {error.code().name}")
            return Finding(status=Status.UNHEALTHY, message=f"cannot be used: {cause}", error=cause)
        if response.status == pb.HealthCheckResponse.SERVING:
            return Finding(status=Status.HEALTHY, message="it serves")
        return Finding(status=Status.UNHEALTHY, message="it says that it does not serve", error="not serving")

    def details(self) -> Details:
        """See DependencyChecker."""
        return Details(hostname=self._endpoint.host, port=self._endpoint.port, protocol="grpc")

    async def close(self) -> None:
        """See DependencyChecker."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()
