"""Ports for servers that must know their port before they start, or keep it through restarts."""

import random
import socket

# Below the ports that the system assigns to clients and to listeners on port 0 (Linux 32768, macOS and Windows 49152),
# so that no other test gets the port before the server listens, or while it restarts.
_RANGE = range(10_000, 32_000)
# gRPC keeps the state of an address, such as a failure to connect, for all channels of a process.
_given: set[int] = set()


def free_port() -> int:
    """Returns a free port of 127.0.0.1 that this process has not used before."""
    while True:
        with socket.socket() as probe:
            port = random.SystemRandom().choice(_RANGE)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in _given:
                _given.add(port)
                return port
