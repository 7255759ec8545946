"""A client reads what it wrote, also where replicas answer: each write comes with a token, which goes with later reads.

The token says how far the database's log had got. A replica that has not got so far does not answer such a read.
"""

import base64
import binascii
import threading
from collections.abc import Iterable

CONSISTENCY_KEY = "x-consistency"
CONSISTENCY_TOKEN_KEY = "x-consistency-token"  # noqa: S105  the name of a header

STRONG = ((CONSISTENCY_KEY, "strong"),)
"""The metadata of a read that the primary answers."""


def not_older_than(token: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of a read that sees what a token stands for. None asks for nothing; "" is of who cannot say."""
    if token is None:
        return ()
    return ((CONSISTENCY_TOKEN_KEY, token),) if token else STRONG


class OwnWrites:
    """The newest token of one client's writes; threads may share it."""

    def __init__(self) -> None:
        self.token = ""
        """Empty before the first write, and with a server that has no replicas."""
        self._place = b""
        self._turn = threading.Lock()

    def note(self, trailing_metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
        """What came behind an answer. Of concurrent writes the furthest counts, not the last to be answered."""
        for key, token in trailing_metadata or ():
            if key == CONSISTENCY_TOKEN_KEY and isinstance(token, str):
                place = _place(token)
                with self._turn:
                    if place > self._place:
                        self.token, self._place = token, place


def _place(token: str) -> bytes:
    """A token's bytes, which are in the order of what they stand for: version, timeline, place in the log."""
    try:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        return b""
