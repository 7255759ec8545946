"""UUID v7 (RFC 9562, 5.7), made in order.

48 bits of Unix milliseconds, then 12 bits that count within the millisecond, then 62 random bits. A process makes no id
that sorts before an earlier one: past 4,096 in a millisecond, or when the clock steps back a little, the counter runs
on into the next millisecond. A clock that is set back further had been wrong: ids follow it, since a time in the future
would stand in every record until the process ends, and has no partition.
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
# How far the clock may step back without being followed, in the counter's ticks of 1/4,096 ms: 10 s.
_MOST_AHEAD = 10_000 << 12
_last = 0


def new_ids(count: int) -> list[UUID]:
    """`count` new ids, in ascending order."""
    return [UUID(bytes=identifier) for identifier in new_id_bytes(count)]


def new_id() -> UUID:
    """A new id that sorts after every earlier one of this process, but those of a clock that was wrong."""
    return new_ids(1)[0]


def new_id_bytes(count: int) -> list[bytes]:
    """`count` new ids, in ascending order, as the 16 bytes of each: a fraction of what UUID objects cost."""
    global _last  # noqa: PLW0603  the order holds for the process, whoever asks
    now = (time.time_ns() // 1_000_000) << 12
    first = now if _last - now > _MOST_AHEAD else max(now, _last + 1)
    _last = first + count - 1
    random = unpack(f"!{count}Q", os.urandom(8 * count))
    return [
        _halves((ticks >> 12) << 16 | _VERSION | ticks & 0xFFF, bits & _RANDOM_MASK | _VARIANT)
        for ticks, bits in zip(range(first, first + count), random, strict=True)
    ]


def milliseconds_of(identifier: UUID) -> int:
    """The Unix time in an id, in milliseconds."""
    return identifier.int >> 80


def time_of(identifier: UUID) -> datetime:
    """The time in an id, UTC, to the millisecond."""
    return _EPOCH + milliseconds_of(identifier) * _MILLISECOND


def floor_at(at: datetime) -> UUID:
    """The least id of the millisecond in which `at` lies; times outside what an id can hold are moved to its edge."""
    return _least_of((at - _EPOCH) // _MILLISECOND)


def ceiling_at(at: datetime) -> UUID:
    """The least id of the first millisecond that begins at `at` or later."""
    return _least_of(-((_EPOCH - at) // _MILLISECOND))


def _least_of(milliseconds: int) -> UUID:
    return UUID(int=min(max(milliseconds, 0), (1 << 48) - 1) << 80)
