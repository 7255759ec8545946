"""Resolves listen addresses for gRPC and HTTP, so that both accept the same connections.

gRPC silently skips those addresses of a host name that are in use, and asyncio accepts only one address family on a
wildcard address.
"""

import errno
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

_ANY_IPV4: Final = "0.0.0.0"  # noqa: S104  a wildcard address that an operator has configured
_ANY_IPV6: Final = "::"
_NOT_OURS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_NUMERIC: Final = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


def local_addresses(host: str) -> Sequence[str]:
    """Returns the numeric addresses to listen on for a host name or an address.

    A wildcard address of either family stands for both families where the machine has both. Addresses of a host name
    that the machine does not have are left out, unless there are no others. Raises OSError.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys(socket.getnameinfo(sockaddr, _NUMERIC)[0] for *_, sockaddr in found))
    if any(ip_address(address).is_unspecified for address in addresses):
        return [_ANY_IPV6 if _is_ours(_ANY_IPV6) else _ANY_IPV4]
    return [address for address in addresses if _is_ours(address)] or addresses


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches the addresses of a host name or an address. Raises OSError."""
    return all(ip_address(address).is_loopback for address in local_addresses(host))


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Returns a listening socket for each address of the host, all with the same port. Raises OSError."""
    sockets: list[socket.socket] = []
    try:
        for address in local_addresses(host):
            sockets.append(_listen(address, port))
            port = sockets[0].getsockname()[1]
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def _listen(address: str, port: int) -> socket.socket:
    family, *_, sockaddr = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    # As in gRPC, an IPv6 socket also accepts IPv4: on the wildcard address, and on a mapped one.
    return socket.create_server(sockaddr, family=family, dualstack_ipv6=family is socket.AF_INET6)


def _is_ours(address: str) -> bool:
    """Whether the machine has this address."""
    family, kind, protocol, _, sockaddr = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(sockaddr)
    except OSError as error:
        return error.errno not in _NOT_OURS
    return True
