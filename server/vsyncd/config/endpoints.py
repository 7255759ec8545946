"""Hosts and ports as settings write them."""

from __future__ import annotations

from typing import NamedTuple

# What the health report calls the databases and the cache.
_OWN_DEPENDENCIES = ("postgresql-", "redis-")


class HostPort(NamedTuple):
    """Where a server listens: a name, an address or the folder of a Unix socket, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if _is_bare_ipv6(self.host) else f"{self.host}:{self.port}"


class GrpcDependency(NamedTuple):
    """A gRPC service that this one needs, checked through its grpc.health.v1."""

    name: str
    endpoint: HostPort
    is_critical: bool


def parse_port(text: str, *, default_port: int | None = None) -> int:
    """Read a port, 0 to 65535; an empty text is the default. Raises ValueError."""
    if not text and default_port is not None:
        return default_port
    # int() alone would take signs, underscores and other alphabets' digits too.
    if not _is_number(text) or int(text) > 65535:
        raise ValueError("the port is not a number from 0 to 65535")
    return int(text)


def parse_host_port(text: str, *, default_port: int | None = None) -> HostPort:
    """Read `host:port`, `[address]:port` or, where there is a default port, `host` alone.

    Raises ValueError, whose message does not repeat the text.
    """
    host, port = _split(text.strip())
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    is_folder = host.startswith("/")
    if not host or (not is_folder and any(character.isspace() or character in "[]/@," for character in host)):
        raise ValueError("there is no host")
    return HostPort(host, parse_port(port, default_port=default_port))


def parse_hosts(text: str, *, default_port: int | None = None) -> tuple[HostPort, ...]:
    """Read a comma-separated list of hosts; an empty text is an empty list. Raises ValueError."""
    if not text.strip():
        return ()
    return tuple(parse_host_port(part, default_port=default_port) for part in text.split(","))


def parse_grpc_dependencies(text: str) -> tuple[GrpcDependency, ...]:
    """Read `name=host:port`, comma separated; a `!` at the end makes one critical. Raises ValueError."""
    if not text.strip():
        return ()
    dependencies = tuple(_parse_grpc_dependency(part.strip()) for part in text.split(","))
    if len({dependency.name for dependency in dependencies}) < len(dependencies):
        raise ValueError("a name stands twice")
    return dependencies


def _parse_grpc_dependency(text: str) -> GrpcDependency:
    name, _, address = text.partition("=")
    if not name or any(character.isspace() for character in name):
        raise ValueError("there is no name")
    if name.startswith(_OWN_DEPENDENCIES):
        raise ValueError("the name is that of a dependency of vsyncd's own")
    return GrpcDependency(name, parse_host_port(address.removesuffix("!")), address.endswith("!"))


def _split(text: str) -> tuple[str, str]:
    host, colon, port = text.rpartition(":")
    # An IPv6 address without brackets has no port, and a folder's name may hold a colon.
    if not colon or _is_bare_ipv6(text) or port.endswith("]") or (host.startswith("/") and not _is_number(port)):
        return text, ""
    return host, port


def _is_bare_ipv6(text: str) -> bool:
    return text.count(":") > 1 and not text.startswith(("[", "/"))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
