"""Parses hosts and ports in settings."""

from ipaddress import ip_address
from typing import NamedTuple

# Prefixes of the names of databases and the cache in the health report.
_OWN_DEPENDENCIES = ("postgresql-", "redis-", "access-control")


class HostPort(NamedTuple):
    """A host name, an address or the folder of a Unix socket, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if _is_bare_ipv6(self.host) else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine: a loopback address, `localhost` or a Unix socket."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.startswith("/")


class GrpcDependency(NamedTuple):
    """A gRPC service that this service depends on. Its grpc.health.v1 is checked."""

    name: str
    endpoint: HostPort
    is_critical: bool


def parse_port(text: str, *, default_port: int | None = None) -> int:
    """Returns a port from 0 to 65535, or the default for an empty text. Raises ValueError."""
    if not text and default_port is not None:
        return default_port
    # int() also accepts signs, underscores and digits of other scripts.
    if not _is_number(text) or int(text) > 65535:
        raise ValueError("the port is not a number from 0 to 65535")
    return int(text)


def parse_host_port(text: str, *, default_port: int | None = None) -> HostPort:
    """Parses `host:port`, `[address]:port` or, with a default port, `host`. Raises ValueError without the text."""
    host, port = _split(text.strip())
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    is_folder = host.startswith("/")
    if not host or (not is_folder and any(character.isspace() or character in "[]/@," for character in host)):
        raise ValueError("the host is missing or invalid")
    return HostPort(host, parse_port(port, default_port=default_port))


def parse_hosts(text: str, *, default_port: int | None = None) -> tuple[HostPort, ...]:
    """Parses a comma-separated list of hosts, which may be empty. Raises ValueError."""
    if not text.strip():
        return ()
    return tuple(parse_host_port(part, default_port=default_port) for part in text.split(","))


def parse_grpc_dependencies(text: str) -> tuple[GrpcDependency, ...]:
    """Parses `name=host:port`, comma separated. A `!` at the end marks a critical dependency. Raises ValueError."""
    if not text.strip():
        return ()
    dependencies = tuple(_parse_grpc_dependency(part.strip()) for part in text.split(","))
    if len({dependency.name for dependency in dependencies}) < len(dependencies):
        raise ValueError("a name is used twice")
    return dependencies


def _parse_grpc_dependency(text: str) -> GrpcDependency:
    name, _, address = text.partition("=")
    if not name or any(character.isspace() for character in name):
        raise ValueError("the name is missing or invalid")
    if name.startswith(_OWN_DEPENDENCIES):
        raise ValueError("the name is reserved")
    return GrpcDependency(name, parse_host_port(address.removesuffix("!")), address.endswith("!"))


def _split(text: str) -> tuple[str, str]:
    host, colon, port = text.rpartition(":")
    # An IPv6 address without brackets has no port. The name of a folder may contain a colon.
    if not colon or _is_bare_ipv6(text) or port.endswith("]") or (host.startswith("/") and not _is_number(port)):
        return text, ""
    return host, port


def _is_bare_ipv6(text: str) -> bool:
    return text.count(":") > 1 and not text.startswith(("[", "/"))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
