"""Where a read may be executed, and how a client reads its own writes.

x-consistency: strong | eventual     request metadata: overrides the method's default read mode
x-consistency-token: ...             trailing metadata of a write. A read that sends the token is executed only on a
                                     server that has replayed the write
"""

import base64
import binascii
import struct
from enum import Enum
from typing import Final, NamedTuple, Self

from vsyncd.core.context import CONSISTENCY_TOKEN_HEADER, RequestContext
from vsyncd.core.errors import InvalidFields, Violation

CONSISTENCY_HEADER: Final = "x-consistency"

# Version, timeline, LSN (PostgreSQL's manual, section 28.6: a byte position in the log of one timeline).
_TOKEN_LAYOUT: Final = struct.Struct("!BIQ")
_TOKEN_VERSION: Final = 1


class ReadMode(Enum):
    """Which servers may execute a read."""

    # Only the primary.
    PRIMARY = "primary"
    # The primary, or a replica while the primary is down.
    PRIMARY_PREFERRED = "primary_preferred"
    # A healthy replica, or the primary if there is none.
    REPLICA_PREFERRED = "replica_preferred"


class WalPosition(NamedTuple):
    """A position in the write-ahead log."""

    timeline: int
    lsn: int

    def covers(self, other: "WalPosition") -> bool:
        """Whether a server that has replayed up to this position has also replayed up to `other`.

        A later timeline branches off an earlier one: what it lacks of the earlier one no longer exists on any server.
        """
        return self.timeline >= other.timeline and self.lsn >= other.lsn

    def encode(self) -> str:
        """Returns the consistency token."""
        return base64.urlsafe_b64encode(_TOKEN_LAYOUT.pack(_TOKEN_VERSION, *self)).rstrip(b"=").decode()

    @classmethod
    def decode(cls, token: str | bytes) -> Self:
        """Reads a consistency token. Raises ValueError."""
        data = token.encode("ascii", "replace") if isinstance(token, str) else token
        try:
            version, timeline, lsn = _TOKEN_LAYOUT.unpack(
                base64.b64decode(data + b"=" * (-len(data) % 4), b"-_", validate=True)
            )
        except (binascii.Error, struct.error) as error:
            raise ValueError("not a token") from error
        if version != _TOKEN_VERSION:
            raise ValueError("a token of another version")
        return cls(timeline, lsn)


# Every server covers it. With a single server, the token of a write only makes reads bypass the cache.
WAL_START: Final = WalPosition(0, 0)


class ReadPreference(NamedTuple):
    """Which servers may execute a read. They must have replayed up to `min_position`."""

    mode: ReadMode
    min_position: WalPosition | None = None


_MODES: Final = {"strong": ReadMode.PRIMARY, "eventual": ReadMode.REPLICA_PREFERRED}


def read_preference(call: RequestContext, mode: ReadMode) -> ReadPreference:
    """Returns the method's default `mode`, unless the call's metadata overrides it. Raises InvalidFields."""
    if not call.metadata:
        return ReadPreference(mode)
    consistency, token = call.metadata.get(CONSISTENCY_HEADER), call.metadata.get(CONSISTENCY_TOKEN_HEADER)
    if consistency is None and token is None:
        return ReadPreference(mode)
    violations = []
    min_position = None
    if consistency is not None:
        if isinstance(consistency, str) and consistency in _MODES:
            mode = _MODES[consistency]
        else:
            violations.append(Violation(CONSISTENCY_HEADER, "must be strong or eventual"))
    if token is not None:
        try:
            min_position = WalPosition.decode(token)
        except ValueError:
            violations.append(Violation(CONSISTENCY_TOKEN_HEADER, "must be a token of an answer"))
    if violations:
        raise InvalidFields(violations)
    return ReadPreference(mode, min_position)
