"""Backup schedules."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.config.schedules import next_due, parse_schedule, times

NOW = datetime(2026, 11, 20, 12, 34, 56, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  hypothesis wants them so


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("30m", NOW + timedelta(minutes=30)),
        ("6h", NOW + timedelta(hours=6)),
        ("7d", NOW + timedelta(days=7)),
        ("0 3 * * *", datetime(2026, 11, 21, 3, tzinfo=UTC)),
        ("*/15 * * * *", datetime(2026, 11, 20, 12, 45, tzinfo=UTC)),
        ("30 2 * * SUN", datetime(2026, 11, 22, 2, 30, tzinfo=UTC)),
        ("0 0 29 2 *", datetime(2028, 2, 29, tzinfo=UTC)),
    ],
)
def test_the_next_time_of_a_schedule(text: str, due: datetime) -> None:
    assert parse_schedule(text)(NOW) == due
    assert parse_schedule(text)(NOW.astimezone(timezone(timedelta(hours=-3)))) == due


@pytest.mark.parametrize(
    "text",
    ["", "0m", "6", "h", "-1h", "1.5h", "1w", "daily", "* * * *", "* * * * * *", "60 * * * *", "0 0 30 2 *", "@daily"],
)
def test_an_invalid_schedule_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the words are cronsim's or ours
        parse_schedule(text)


@given(st.sampled_from(["10m", "1d", "0 3 * * *", "*/7 1-5 * * MON-FRI", "0 0 1 * *"]), MOMENTS)
def test_times_continue_without_end(text: str, after: datetime) -> None:
    schedule = parse_schedule(text)
    coming = list(islice(times(schedule, after), 5))
    assert all(earlier < later for earlier, later in pairwise([after, *coming]))


def test_the_first_run_and_a_missed_run_are_due() -> None:
    schedule = parse_schedule("0 3 * * *")
    assert next_due(schedule, None) < NOW
    assert next_due(schedule, NOW - timedelta(days=9)) < NOW
    assert next_due(schedule, NOW) > NOW
