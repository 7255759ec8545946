"""Divides the time range of a summary into whole hours and parts of hours. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

# Every payment is processed before this time.
END_OF_TIME: Final = datetime(9999, 1, 1, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)


class HourPart(NamedTuple):
    """The part [begins, ends) of one hour."""

    hour: datetime
    begins: datetime
    ends: datetime


class DividedRange(NamedTuple):
    """The whole hours from `first_hour` until before `below_hour`, and the parts of hours before and after them.

    None is without a limit.
    """

    first_hour: datetime | None
    below_hour: datetime | None
    parts: Sequence[HourPart] = ()


def divide(begins: datetime | None, ends: datetime | None) -> DividedRange:
    """Divides the range [begins, ends)."""
    begins = None if begins is None else min(begins, END_OF_TIME)
    ends = None if ends is None else min(ends, END_OF_TIME)
    if begins is not None and ends is not None and ends <= begins:
        return DividedRange(begins, begins)
    first, below = _ceiling(begins), _floor(ends)
    if begins is not None and ends is not None and first is not None and below is not None and below < first:
        return DividedRange(below, below, [HourPart(below, begins, ends)])
    parts = []
    if begins is not None and first is not None and begins < first:
        parts.append(HourPart(first - _HOUR, begins, first))
    if ends is not None and below is not None and below < ends:
        parts.append(HourPart(below, below, ends))
    return DividedRange(first, below, parts)


def _floor(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(minute=0, second=0, microsecond=0)


def _ceiling(at: datetime | None) -> datetime | None:
    hour = _floor(at)
    return hour if hour is None or hour == at else hour + _HOUR
