"""When backups are due. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from cronsim import CronSim, CronSimError

_INTERVAL: Final = re.compile(r"(\d{1,5})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


class Schedule(Protocol):
    """Says when the next backup is due."""

    def after(self, last: datetime) -> datetime:
        """When one is due after the one of that time, in UTC."""
        ...


class Interval:
    """So long after the last one."""

    def __init__(self, length: timedelta) -> None:
        self.length = length

    def after(self, last: datetime) -> datetime:
        """See Schedule."""
        return last.astimezone(UTC) + self.length


class Cron:
    """At the times that a cron expression says, in UTC: days have 24 hours there."""

    def __init__(self, expression: str) -> None:
        """Raises ValueError, also for an expression that no time will ever match."""
        self._expression = expression
        try:
            # It searches fifty years.
            next(CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise ValueError(str(error).lower()) from error
        except StopIteration:
            raise ValueError("no day is ever that day") from None

    def after(self, last: datetime) -> datetime:
        """See Schedule."""
        return next(CronSim(self._expression, last.astimezone(UTC)))


def parse_schedule(text: str) -> Schedule:
    """Read an interval, `30m`, `6h` or `1d`, or a cron expression of five fields. Raises ValueError."""
    if found := _INTERVAL.fullmatch(text):
        length = timedelta(**{_UNITS[found[2]]: int(found[1])})
        if not length:
            raise ValueError("an interval of nothing")
        return Interval(length)
    # cronsim takes six fields as well, the first for seconds.
    if len(text.split()) != 5:
        raise ValueError("neither an interval nor five fields")
    return Cron(text)


def next_due(schedule: Schedule, last: datetime | None) -> datetime:
    """When the next backup is due, maybe in the past: a run that was missed. Without a last one it was always due."""
    return datetime.min.replace(tzinfo=UTC) if last is None else schedule.after(last)


def times(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """All the times that it comes to, without end."""
    while True:
        after = schedule.after(after)
        yield after
