"""Backup schedules."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from cronsim import CronSim, CronSimError

_INTERVAL: Final = re.compile(r"(\d{1,5})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}

# Returns when the next backup is due after one at a given time, in UTC.
Schedule: TypeAlias = Callable[[datetime], datetime]


def parse_schedule(text: str) -> Schedule:
    """Parses an interval (`30m`, `6h`, `1d`) or a cron expression of five fields. Raises ValueError.

    A cron expression is in UTC, where each day has 24 hours.
    """
    if found := _INTERVAL.fullmatch(text):
        length = timedelta(**{_UNITS[found[2]]: int(found[1])})
        if not length:
            raise ValueError("the interval must be positive")
        return lambda last: last.astimezone(UTC) + length
    # cronsim also accepts six fields, the first for seconds.
    if len(text.split()) != 5:
        raise ValueError("neither an interval nor five fields")
    try:
        # cronsim searches fifty years.
        next(CronSim(text, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(str(error).lower()) from error
    except StopIteration:
        raise ValueError("the expression never matches") from None
    return lambda last: next(CronSim(text, last.astimezone(UTC)))


def next_due(schedule: Schedule, last: datetime | None) -> datetime:
    """Returns when the next backup is due: in the past if a run was missed or there is no last backup."""
    return datetime.min.replace(tzinfo=UTC) if last is None else schedule(last)


def times(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Yields the times after `after`, without end."""
    while True:
        after = schedule(after)
        yield after
