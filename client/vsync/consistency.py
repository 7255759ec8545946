"""A client reads its own writes, even if replicas or a cache answer: it sends the token of its writes with each read.

A token is the position of a write in the database's log. Its first byte is the kind: the token of a write that may have
changed cached records makes the read bypass the cache, any other token excludes the replicas that have not replayed the
write.
"""

import base64
import binascii
import threading
from collections.abc import Iterable

CONSISTENCY_KEY = "x-consistency"
CONSISTENCY_TOKEN_KEY = "x-consistency-token"  # noqa: S105  the name of a header

STRONG = ((CONSISTENCY_KEY, "strong"),)
"""The metadata of a read that only the primary answers."""


def not_older_than(token: str | None) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a read that sees the write of a token.

    None requires nothing. An empty token, of a server that could not tell the position, requires the primary.
    """
    if token is None:
        return ()
    return ((CONSISTENCY_TOKEN_KEY, token),) if token else STRONG


class OwnWrites:
    """The token of all writes of one client; threads may share it. Remains empty if not `enabled`."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self.token = ""
        """Empty before the first write that returns a token."""
        self._kind = b"\xff"
        self._position = b""
        self._lock = threading.Lock()

    def note(self, trailing_metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
        """Adds the token of an answer, if it has one.

        Keeps the latest position, not the last one received, and that the cache must be bypassed, which is the lower
        kind.
        """
        if not self._enabled:
            return
        for key, token in trailing_metadata or ():
            decoded = _decoded(token) if key == CONSISTENCY_TOKEN_KEY and isinstance(token, str) else b""
            if decoded:
                with self._lock:
                    self._kind = min(self._kind, decoded[:1])
                    self._position = max(self._position, decoded[1:])
                    self.token = base64.urlsafe_b64encode(self._kind + self._position).rstrip(b"=").decode()


def _decoded(token: str) -> bytes:
    """Returns the kind and the position, whose bytes are in the order of positions, or nothing if it is no token."""
    try:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        return b""
