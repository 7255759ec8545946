"""Backup schedules."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from cronsim import CronSim, CronSimError

_INTERVAL: Final = re.compile(r"(\d{1,5})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


class Schedule(Protocol):
    """Determines when a backup is due."""

    def after(self, last: datetime) -> datetime:
        """Returns when the next backup is due after one at the time `last`, in UTC."""
        ...


class Interval:
    """A fixed time after the last backup."""

    def __init__(self, length: timedelta) -> None:
        self.length = length

    def after(self, last: datetime) -> datetime:
        return last.astimezone(UTC) + self.length


class Cron:
    """The times of a cron expression in UTC, where each day has 24 hours."""

    def __init__(self, expression: str) -> None:
        """Raises ValueError if the expression is invalid or never matches."""
        self._expression = expression
        try:
            # cronsim searches fifty years.
            next(CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise ValueError(str(error).lower()) from error
        except StopIteration:
            raise ValueError("the expression never matches") from None

    def after(self, last: datetime) -> datetime:
        return next(CronSim(self._expression, last.astimezone(UTC)))


def parse_schedule(text: str) -> Schedule:
    """Parses an interval (`30m`, `6h`, `1d`) or a cron expression of five fields. Raises ValueError."""
    if found := _INTERVAL.fullmatch(text):
        length = timedelta(**{_UNITS[found[2]]: int(found[1])})
        if not length:
            raise ValueError("the interval must be positive")
        return Interval(length)
    # cronsim also accepts six fields, the first for seconds.
    if len(text.split()) != 5:
        raise ValueError("neither an interval nor five fields")
    return Cron(text)


def next_due(schedule: Schedule, last: datetime | None) -> datetime:
    """Returns when the next backup is due: in the past if a run was missed or there is no last backup."""
    return datetime.min.replace(tzinfo=UTC) if last is None else schedule.after(last)


def times(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Yields the times after `after`, without end."""
    while True:
        after = schedule.after(after)
        yield after
