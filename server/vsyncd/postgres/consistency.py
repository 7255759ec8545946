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

# Kind, timeline, LSN (PostgreSQL's manual, section 28.6: a byte position in the log of one timeline).
_TOKEN_LAYOUT: Final = struct.Struct("!BIQ")
# The token of a write that may have changed cached records: a read that sends it bypasses the cache.
_BYPASS_CACHE: Final = 1
# The token of any other write: it only excludes replicas that have not replayed the write.
_POSITION_ONLY: Final = 2


class ReadMode(Enum):
    """Which servers may execute a read."""

    # Only the primary.
    PRIMARY = "primary"
    # The primary, or a replica while the primary is down.
    PRIMARY_PREFERRED = "primary_preferred"
    # A healthy replica, or the primary if there is none.
    REPLICA_PREFERRED = "replica_preferred"


class WalPosition(NamedTuple):
    timeline: int
    lsn: int

    def covers(self, other: "WalPosition") -> bool:
        """Whether a server that has replayed up to this position has also replayed up to `other`.

        A later timeline branches off an earlier one: what it lacks of the earlier one no longer exists on any server.
        """
        return self.timeline >= other.timeline and self.lsn >= other.lsn

    def encode(self, *, bypass_cache: bool = True) -> str:
        """Returns the consistency token of this position. `bypass_cache`: reads that send it bypass the cache."""
        kind = _BYPASS_CACHE if bypass_cache else _POSITION_ONLY
        return base64.urlsafe_b64encode(_TOKEN_LAYOUT.pack(kind, *self)).rstrip(b"=").decode()


class ConsistencyToken(NamedTuple):
    """The content of a token that a read sends."""

    position: WalPosition
    bypass_cache: bool

    @classmethod
    def decode(cls, token: str | bytes) -> Self:
        """Raises ValueError."""
        data = token.encode("ascii", "replace") if isinstance(token, str) else token
        try:
            kind, timeline, lsn = _TOKEN_LAYOUT.unpack(
                base64.b64decode(data + b"=" * (-len(data) % 4), b"-_", validate=True)
            )
        except (binascii.Error, struct.error) as error:
            raise ValueError("not a token") from error
        if kind not in {_BYPASS_CACHE, _POSITION_ONLY}:
            raise ValueError("a token of another version")
        return cls(WalPosition(timeline, lsn), kind == _BYPASS_CACHE)


# Every server has replayed this position. Without replicas, a token only makes reads bypass the cache.
WAL_START: Final = WalPosition(0, 0)


class ReadPreference(NamedTuple):
    """Which servers may execute a read. They must have replayed up to `min_position`."""

    mode: ReadMode
    min_position: WalPosition | None = None
    bypass_cache: bool = False

    @property
    def allows_cache(self) -> bool:
        """Whether the cache may answer."""
        return self.mode is ReadMode.PRIMARY_PREFERRED and not self.bypass_cache


_MODES: Final = {"strong": ReadMode.PRIMARY, "eventual": ReadMode.REPLICA_PREFERRED}


def read_preference(call: RequestContext, mode: ReadMode) -> ReadPreference:
    """Returns the method's default `mode`, unless the call's metadata overrides it. Raises InvalidFields."""
    if not call.metadata:
        return ReadPreference(mode)
    consistency, encoded_token = call.metadata.get(CONSISTENCY_HEADER), call.metadata.get(CONSISTENCY_TOKEN_HEADER)
    if consistency is None and encoded_token is None:
        return ReadPreference(mode)
    violations = []
    token = None
    if consistency is not None:
        if isinstance(consistency, str) and consistency in _MODES:
            mode = _MODES[consistency]
        else:
            violations.append(Violation(CONSISTENCY_HEADER, "must be strong or eventual"))
    if encoded_token is not None:
        try:
            token = ConsistencyToken.decode(encoded_token)
        except ValueError:
            violations.append(Violation(CONSISTENCY_TOKEN_HEADER, "must be a token of an answer"))
    if violations:
        raise InvalidFields(violations)
    return ReadPreference(mode, *token) if token else ReadPreference(mode)
