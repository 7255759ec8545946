"""Which server a read may be answered by, and how a client is given its own writes.

x-consistency: strong | eventual     what the caller wants of a read, in place of the method's own way
x-consistency-token: ...             trailing metadata of a write; sent with a read, no replica that has not
                                     replayed the write answers it
"""

import base64
import binascii
import struct
from enum import Enum
from typing import Final, NamedTuple, Self

from vsyncd.core.context import CONSISTENCY_TOKEN_HEADER, RequestContext
from vsyncd.core.errors import InvalidFields, Violation

CONSISTENCY: Final = "x-consistency"
TOKEN: Final = CONSISTENCY_TOKEN_HEADER

# Kind, timeline, LSN (PostgreSQL's manual, section 28.6: a byte position in the log of one timeline).
_FORM: Final = struct.Struct("!BIQ")
# The token of a write that may have changed cached records: a read that sends it bypasses the cache.
_PAST_CACHE: Final = 1
# The token of any other write: it only excludes replicas that have not replayed the write.
_POSITION_ONLY: Final = 2


class Reads(Enum):
    """Where a read goes."""

    # The primary and nothing else.
    PRIMARY = "primary"
    # The primary; a replica while there is no primary.
    SINGLE = "single"
    # A healthy replica; the primary where there is none.
    MANY = "many"


class WalPosition(NamedTuple):
    """A place in the write-ahead log."""

    timeline: int
    lsn: int

    def covers(self, other: "WalPosition") -> bool:
        """Whether a server that has replayed up to here has replayed what stands at `other`.

        A later timeline branches off somewhere: what it does not have of the earlier one, no server has.
        """
        return self.timeline >= other.timeline and self.lsn >= other.lsn

    def encode(self, *, past_cache: bool = True) -> str:
        """Returns the consistency token of this position. `past_cache`: reads that send it bypass the cache."""
        kind = _PAST_CACHE if past_cache else _POSITION_ONLY
        return base64.urlsafe_b64encode(_FORM.pack(kind, self.timeline, self.lsn)).rstrip(b"=").decode()


class ConsistencyToken(NamedTuple):
    """A token that a read brings."""

    position: WalPosition
    past_cache: bool

    @classmethod
    def decode(cls, text: str | bytes) -> Self:
        """Raises ValueError."""
        data = text.encode("ascii", "replace") if isinstance(text, str) else text
        try:
            kind, timeline, lsn = _FORM.unpack(base64.b64decode(data + b"=" * (-len(data) % 4), b"-_", validate=True))
        except (binascii.Error, struct.error) as error:
            raise ValueError("not a token") from error
        if kind not in {_PAST_CACHE, _POSITION_ONLY}:
            raise ValueError("a token of another version")
        return cls(WalPosition(timeline, lsn), kind == _PAST_CACHE)


# Every server has replayed this position: where there are no replicas, a token only makes reads bypass the cache.
EARLIEST: Final = WalPosition(0, 0)


class ReadPreference(NamedTuple):
    """What a read asks of the server that answers it."""

    reads: Reads
    position: WalPosition | None = None
    past_cache: bool = False

    @property
    def allows_cache(self) -> bool:
        """Whether the cache may answer."""
        return self.reads is Reads.SINGLE and not self.past_cache


_WORDS: Final = {"strong": Reads.PRIMARY, "eventual": Reads.MANY}


def read_preference(call: RequestContext, reads: Reads) -> ReadPreference:
    """The method's own way, `reads`, unless the call's metadata say otherwise. Raises InvalidFields."""
    if not call.metadata:
        return ReadPreference(reads)
    word, token = call.metadata.get(CONSISTENCY), call.metadata.get(TOKEN)
    if word is None and token is None:
        return ReadPreference(reads)
    violations = []
    wanted = None
    if word is not None:
        if isinstance(word, str) and word in _WORDS:
            reads = _WORDS[word]
        else:
            violations.append(Violation(CONSISTENCY, "must be strong or eventual"))
    if token is not None:
        try:
            wanted = ConsistencyToken.decode(token)
        except ValueError:
            violations.append(Violation(TOKEN, "must be a token of an answer"))
    if violations:
        raise InvalidFields(violations)
    return ReadPreference(reads, *wanted) if wanted else ReadPreference(reads)
