"""Checks a gRPC service on which this one depends, with grpc.health.v1."""

from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2 as pb
from vsync.health.v1 import health_pb2

from vsyncd.config.endpoints import GrpcDependency
from vsyncd.health.status import Finding, Status
from vsyncd.postgres.error_mapping import TIMEOUT

_OPTIONS: Final = (
    # Detects a recovered service soon: by default gRPC waits up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # An internal service must not be called through a proxy that the environment configures for other purposes.
    ("grpc.enable_http_proxy", 0),
)
_CAUSES: Final = {
    grpc.StatusCode.UNAVAILABLE: "cannot connect",
    grpc.StatusCode.DEADLINE_EXCEEDED: TIMEOUT,
    grpc.StatusCode.UNIMPLEMENTED: "it does not serve grpc.health.v1",
    grpc.StatusCode.NOT_FOUND: "it does not report its overall status",
    grpc.StatusCode.UNAUTHENTICATED: "authentication failed",
    grpc.StatusCode.PERMISSION_DENIED: "permission denied",
}


class GrpcChecker:
    """Calls Check for the service "", the overall status. `timeout` in seconds is the call's deadline. Uses no TLS."""

    kind = health_pb2.GRPC_SERVICE

    def __init__(self, dependency: GrpcDependency, *, timeout: float) -> None:
        self.name = dependency.name
        self.is_critical = dependency.is_critical
        self._endpoint = dependency.endpoint
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._ask: Any = None  # a method of the channel, generic over its messages

    async def check(self) -> Finding:
        """Calls Check."""
        if self._channel is None:
            # Created here, because a channel belongs to the running event loop.
            self._channel = grpc.aio.insecure_channel(str(self._endpoint), options=_OPTIONS)
            self._ask = self._channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=pb.HealthCheckRequest.SerializeToString,
                response_deserializer=pb.HealthCheckResponse.FromString,
            )
        try:
            response = await self._ask(pb.HealthCheckRequest(), timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            # The error's details may contain addresses.
            cause = _CAUSES.get(error.code(), f"it answers {error.code().name}")
            return Finding(status=Status.UNHEALTHY, message=f"cannot be used: {cause}", error=cause)
        if response.status == pb.HealthCheckResponse.SERVING:
            return Finding(status=Status.HEALTHY, message="it is serving")
        return Finding(status=Status.UNHEALTHY, message="it reports NOT_SERVING", error="not serving")

    def details(self) -> health_pb2.DependencyConfig:
        """Returns the address."""
        return health_pb2.DependencyConfig(hostname=self._endpoint.host, port=self._endpoint.port, protocol="grpc")

    async def close(self) -> None:
        """Closes the channel."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()
