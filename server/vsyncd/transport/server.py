"""Builds the gRPC server: addresses, TLS, limits, keepalive and reflection."""

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from vsyncd.access.certificates import TlsFiles
from vsyncd.access.control import AccessControl
from vsyncd.access.denials import Denials
from vsyncd.access.watched_files import WatchedFiles
from vsyncd.config import Settings, cannot_listen
from vsyncd.config.endpoints import HostPort, parse_host_port
from vsyncd.core.listening import local_addresses
from vsyncd.transport.draining import Drain
from vsyncd.transport.error_mapping import ErrorMapping, TranslateError
from vsyncd.transport.interceptors import admission, interceptors
from vsyncd.transport.open_calls import OpenCalls, RequestReceiver, max_open_calls
from vsyncd.transport.pipeline import Interceptor, Registry
from vsyncd.transport.streaming import Streams

# Registers a service on a server-like object: a generated add_..._to_server with its servicer.
Registration = Callable[[Any], None]


def build_server(
    settings: Settings,
    services: Sequence[Registration],
    infrastructure: Sequence[Registration] = (),
    *,
    translate: TranslateError = lambda _: None,
    drain: Drain | None = None,
    access: AccessControl | None = None,
    denials: Denials | None = None,
) -> tuple[grpc.aio.Server, int, int]:
    """Returns a server that is not started yet, its port, and that of GRPC_TOKEN_LISTEN or 0.

    `infrastructure` are gRPC's own services (grpc.health.v1), with few interceptors. `drain` ends the calls before the
    server stops. Raises StartError and ConfigError.
    """
    drain, access, denials = drain or Drain(), access or AccessControl(settings), denials or Denials()
    server = grpc.aio.server(options=server_options(settings))
    chain = interceptors(settings, drain, translate, access, denials)
    registry = _registry(server, settings, chain, drain)
    exempt_registry = _exempt_registry(server, settings)
    for register in services:
        register(registry)
    for register in infrastructure:
        register(exempt_registry)
    if settings.grpc_reflection:
        reflected = [*registry.services, "grpc.health.v1.Health", reflection.SERVICE_NAME]
        servicer = reflection.aio.ReflectionServicer(reflected, pool=_Symbols())
        add_ServerReflectionServicer_to_server(servicer, exempt_registry)  # type: ignore[no-untyped-call]  # generated
    mutual = "mtls" in settings.authentication_methods
    port = _listen(server, "GRPC_LISTEN", settings.grpc_listen, _credentials(access, mutual=mutual))
    token_port = 0
    if settings.grpc_token_listen is not None:
        token_credentials = _credentials(access, mutual=False)
        token_port = _listen(server, "GRPC_TOKEN_LISTEN", settings.grpc_token_listen, token_credentials)
    return server, port, token_port


def build_health_server(settings: Settings, address: str, register: Registration) -> tuple[grpc.aio.Server, int]:
    """Returns a server for probes, without TLS, that is not started yet, and its port. Raises StartError.

    It shares no limit with the other server, except the event loop.
    """
    server = grpc.aio.server(options=server_options(settings))
    register(_exempt_registry(server, settings))
    return server, _listen(server, "GRPC_HEALTH_LISTEN", address, None)


def _registry(server: grpc.aio.Server, settings: Settings, chain: Sequence[Interceptor], drain: Drain) -> Registry:
    waiting = OpenCalls(max_open_calls(settings), timeout=settings.stream_idle_timeout)
    streams = Streams(drain, idle_timeout=settings.stream_idle_timeout, stall_timeout=settings.export_stall_timeout)
    return Registry(server, chain, drain=drain, streams=streams, receive=RequestReceiver(waiting))


def _exempt_registry(server: grpc.aio.Server, settings: Settings) -> Registry:
    """Returns the registry of gRPC's own services. They also answer during the shutdown."""
    drain = Drain()
    chain = (ErrorMapping(drain, translate=lambda _: None), admission(settings, drain))
    return _registry(server, settings, chain, drain)


def server_options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.grpc_max_request_bytes),
        ("grpc.max_send_message_length", settings.grpc_max_response_bytes),
        ("grpc.keepalive_time_ms", int(settings.grpc_keepalive_time * 1000)),
        ("grpc.keepalive_timeout_ms", int(settings.grpc_keepalive_timeout * 1000)),
        # gRPC sends no keepalive ping while one of its own pings is unanswered, whose timeout is 60 s by default.
        ("grpc.http2.ping_timeout_ms", int(settings.grpc_keepalive_timeout * 1000)),
        # Half of the interval, because delays shorten the time between two pings; the third early ping ends the
        # connection. Pings between calls are permitted: they keep pooled channels open behind load balancers.
        ("grpc.http2.min_ping_interval_without_data_ms", int(settings.grpc_min_ping_interval * 1000 / 2)),
        ("grpc.keepalive_permit_without_calls", 1),
        # Two servers on one port would share the connections at random.
        ("grpc.so_reuseport", 0),
        # grpc.aio accepts one call per turn of the event loop; the others wait in gRPC core. Above these numbers the
        # core cancels random calls. They are far above the limits at which calls are answered with OVERLOADED, but each
        # waiting call occupies 15 KB.
        ("grpc.server.max_pending_requests", 3 * settings.max_concurrent_calls + 1_500),
        ("grpc.server.max_pending_requests_hard_limit", 6 * settings.max_concurrent_calls + 3_000),
        # Further calls of one connection wait at the client.
        ("grpc.max_concurrent_streams", max_open_calls(settings)),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", int(settings.handshake_timeout * 1000)),
        ("grpc.max_connection_age_ms", int(settings.connection_max_age * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.connection_max_age_grace * 1000)),
    ]


def server_credentials(files: WatchedFiles[TlsFiles], *, mutual: bool) -> grpc.ServerCredentials:
    """Returns the credentials of a listener, `mutual`: one that requires client certificates.

    Each handshake uses the present version of the files; open connections continue.
    """
    used = files.value

    def configuration(tls: TlsFiles) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(tls.key, tls.chain)], root_certificates=tls.client_ca if mutual else None
        )

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Returns a new configuration, or None to continue with the last one. Called on a thread of gRPC."""
        nonlocal used
        present = files.value
        if present is used:
            return None
        used = present
        return configuration(present)

    return grpc.dynamic_ssl_server_credentials(
        configuration(used),
        fetch,  # type: ignore[arg-type]  # the published types lack None
        require_client_authentication=mutual,
    )


def _credentials(access: AccessControl, *, mutual: bool) -> grpc.ServerCredentials | None:
    return server_credentials(access.tls, mutual=mutual) if access.tls else None


def _listen(server: grpc.aio.Server, setting: str, address: str, credentials: grpc.ServerCredentials | None) -> int:
    endpoint = parse_host_port(address)
    port = endpoint.port
    try:
        for host in local_addresses(endpoint.host):
            bound = str(HostPort(host, port))
            port = server.add_secure_port(bound, credentials) if credentials else server.add_insecure_port(bound)
    except (OSError, RuntimeError) as error:  # RuntimeError is gRPC's, without the reason
        raise cannot_listen(setting=setting, address=address) from error
    return port


class _Symbols:
    """protobuf's default pool. Also finds the file of a method, which ghz requests and the pool does not find."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802  the name in the pool
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file
