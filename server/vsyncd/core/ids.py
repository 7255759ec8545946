"""Generates UUIDs of version 7 (RFC 9562, 5.7) in ascending order.

An id has 48 bits of Unix milliseconds, a 12-bit counter and 62 random bits. The ids of a process ascend: after 4,096
ids in a millisecond, or if the clock steps back a little, the counter continues in the next millisecond. If the clock
steps back further, it was wrong before and the ids follow it: otherwise every record would have a time in the future,
for which no partition exists, until the process ends.
"""

import os
import time
from datetime import UTC, datetime, timedelta
from struct import Struct, unpack
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_VERSION = 0x7000
_VARIANT = 0b10 << 62
_RANDOM_MASK = (1 << 62) - 1
_halves = Struct("!QQ").pack
# The largest step of the clock that ids do not follow: 10 s, in ticks of 1/4,096 ms.
_MAX_STEP_BACK_TICKS = 10_000 << 12
_last = 0


def new_ids(count: int) -> list[UUID]:
    return [UUID(bytes=identifier) for identifier in new_id_bytes(count)]


def new_id() -> UUID:
    """Returns a new id, greater than all earlier ids of this process unless the clock was wrong before."""
    return new_ids(1)[0]


def new_id_bytes(count: int) -> list[bytes]:
    """Returns `count` new ids in ascending order as 16 bytes each, at a fraction of the cost of UUID objects."""
    global _last  # noqa: PLW0603  the order is per process
    now = (time.time_ns() // 1_000_000) << 12
    first = now if _last - now > _MAX_STEP_BACK_TICKS else max(now, _last + 1)
    _last = first + count - 1
    random = unpack(f"!{count}Q", os.urandom(8 * count))
    return [
        _halves((ticks >> 12) << 16 | _VERSION | ticks & 0xFFF, bits & _RANDOM_MASK | _VARIANT)
        for ticks, bits in zip(range(first, first + count), random, strict=True)
    ]


def milliseconds_of(identifier: UUID) -> int:
    """Returns the Unix time of an id in milliseconds."""
    return identifier.int >> 80


def time_of(identifier: UUID) -> datetime:
    """Returns the time of an id (UTC, milliseconds)."""
    return _EPOCH + milliseconds_of(identifier) * _MILLISECOND


def floor_at(at: datetime) -> UUID:
    """Returns the smallest id of the millisecond that contains `at`. Times outside the range of ids are clamped."""
    return _smallest_id((at - _EPOCH) // _MILLISECOND)


def ceiling_at(at: datetime) -> UUID:
    """Returns the smallest id of the first millisecond that begins at `at` or later."""
    return _smallest_id(-((_EPOCH - at) // _MILLISECOND))


def _smallest_id(milliseconds: int) -> UUID:
    return UUID(int=min(max(milliseconds, 0), (1 << 48) - 1) << 80)
