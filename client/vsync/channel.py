"""Channel options: TLS, keepalive, and the service config with its retries."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import grpc

from vsync.version import __version__

# gRPC retries the calls of every other service, also of one that this package does not know. Reads change nothing, and
# mutations take effect once, since the client always sends a request_id. Callers of Health need the present state.
_NOT_RETRIED_SERVICES = ("vsync.health.v1.Health", "grpc.health.v1.Health")
# Detects within 40 s that the connection of a silent stream is lost. A server answers pings that come more often than
# it permits (GRPC_MIN_PING_INTERVAL) with GOAWAY too_many_pings.
KEEPALIVE_TIME_S = 30
KEEPALIVE_TIMEOUT_S = 10

MAX_RECEIVE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Tls:
    """The TLS settings of a connection. Each certificate or key is the path of a PEM file, or the PEM data as bytes."""

    ca: Path | bytes | None = None
    """The trusted certificate authorities; None: gRPC's default."""
    certificate: Path | bytes | None = None
    """The client's certificate chain, for mutual TLS. Its principal is `recorded_by` in the audit trail."""
    key: Path | bytes | None = None
    """The certificate's private key."""
    server_name: str | None = None
    """The name in the server's certificate, if it differs from the target's."""

    def __post_init__(self) -> None:
        """Raises ValueError if only one of certificate and key is given."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate and its key must be given together")

    def credentials(self) -> grpc.ChannelCredentials:
        """Returns the credentials. Raises OSError if a file cannot be read."""
        return grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.certificate))


def _pem(source: Path | bytes | None) -> bytes | None:
    return source.read_bytes() if isinstance(source, Path) else source


@cache
def _streams() -> list[tuple[str, str]]:
    """Returns the service and the name of each streaming method in this package, from the descriptors.

    vsync.streams resumes streams, since it knows the position to continue from. gRPC must not retry them as well: the
    waits of both mechanisms would add up, and a call has hung inside gRPC's retries after the server was restarted.
    """
    package = Path(__file__).parent
    files = sorted(path.relative_to(package) for path in package.rglob("*_pb2.py"))
    descriptors = [import_module(".".join(("vsync", *file.with_suffix("").parts))).DESCRIPTOR for file in files]
    return [
        (service.full_name, method.name)
        for descriptor in descriptors
        for service in descriptor.services_by_name.values()
        for method in service.methods
        if service.full_name not in _NOT_RETRIED_SERVICES and (method.client_streaming or method.server_streaming)
    ]


def service_config() -> str:
    """Returns the gRPC service config as JSON (gRFC A6): up to five attempts with the same request on UNAVAILABLE.

    The waits add up to about five seconds, which is enough for a restart. Throttling stops the retries of a channel if
    most of its calls fail, so that retries do not overload a server that is recovering.
    """
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [
                {
                    "name": [{}],
                    "retryPolicy": {
                        "maxAttempts": 5,
                        "initialBackoff": "0.2s",
                        "maxBackoff": "3s",
                        "backoffMultiplier": 2.5,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                },
                {
                    "name": [
                        *({"service": service} for service in _NOT_RETRIED_SERVICES),
                        *({"service": service, "method": method} for service, method in _streams()),
                    ]
                },
            ],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        }
    )


def channel_options(tls: Tls | None = None) -> Sequence[tuple[str, str | int]]:
    """Returns the options of every channel to vsyncd."""
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", service_config()),
        ("grpc.enable_retries", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        # gRPC sends no keepalive ping while one of its own pings is unanswered. That one's limit is 60 s by default.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        # Pings continue on a stream that is silent for long, for example a watch, or an export with a slow reader.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        # The channel reconnects to a restarted server within the retries above and the reconnect timeout of a stream.
        # Meanwhile calls fail at once. An attempt to connect that is not answered ends after 5 s; gRPC's default of
        # 20 s can exceed the reconnect timeout.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.primary_user_agent", f"vsync/{__version__}"),
    ]
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options
