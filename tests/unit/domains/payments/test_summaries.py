"""The division of a time range into whole hours and parts of hours."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from vsyncd.domains.payments.summaries import END_OF_TIME, divide

HOUR = timedelta(hours=1)
times = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)) | st.integers(0, 48).map(  # noqa: DTZ001  hypothesis adds the zone
    lambda half_hours: datetime(2026, 11, 20, tzinfo=UTC) + half_hours * timedelta(minutes=30)
)


def test_a_range_without_limits_has_no_parts() -> None:
    assert divide(None, None) == (None, None, [])


@given(begins=st.none() | times, ends=st.none() | times, at=times.filter(lambda at: at < END_OF_TIME))
def test_each_time_of_a_range_is_in_one_part_or_in_the_whole_hours(
    begins: datetime | None, ends: datetime | None, at: datetime
) -> None:
    if begins is not None and ends is not None and ends < begins:
        begins, ends = ends, begins
    divided = divide(begins, ends)
    hour = at.replace(minute=0, second=0, microsecond=0)
    in_whole_hours = (divided.first_hour is None or divided.first_hour <= hour) and (
        divided.below_hour is None or hour < divided.below_hour
    )
    in_parts = [part for part in divided.parts if part.begins <= at < part.ends]
    inside = (begins is None or begins <= at) and (ends is None or at < ends)
    assert [*in_parts, *([divided] if in_whole_hours else [])] == ([*in_parts, divided][:1] if inside else [])
    assert all(part.hour <= part.begins < part.ends <= part.hour + HOUR for part in divided.parts)
