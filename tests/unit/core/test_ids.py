"""Ids are UUIDs of version 7 whose order is the order of creation."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.core import ids

TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001  bounds have none
MILLISECOND = timedelta(milliseconds=1)


def test_ids_are_of_version_7_and_carry_their_time() -> None:
    before = datetime.now(UTC) - MILLISECOND
    made = ids.new_ids(3)
    for identifier in made:
        assert (identifier.version, identifier.variant) == (7, RFC_4122)
        assert before < ids.time_of(identifier) <= datetime.now(UTC) + timedelta(seconds=1)


def test_ids_ascend_within_a_millisecond_and_when_the_clock_steps_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = ids.new_ids(10_000)
    now = ids.milliseconds_of(made[-1])
    for at in (now, now - 5_000, now + 1):
        monkeypatch.setattr("vsyncd.core.ids.time.time_ns", lambda at=at: at * 1_000_000)
        made += [ids.new_id(), *ids.new_ids(5_000), ids.new_id()]
    assert all(earlier < later for earlier, later in pairwise(made))
    assert ids.new_ids(0) == []


def test_ids_follow_a_clock_that_is_corrected_by_a_large_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = ids.milliseconds_of(ids.new_id())
    year = 365 * 86_400_000
    for at in (now + year, now):
        monkeypatch.setattr("vsyncd.core.ids.time.time_ns", lambda at=at: at * 1_000_000)
        made = ids.new_ids(3)
        assert [ids.milliseconds_of(identifier) for identifier in made] == [at] * 3
        assert all(earlier < later for earlier, later in pairwise(made))


@given(TIMES)
def test_the_ids_of_a_time_range_begin_with_the_first_millisecond_at_its_start(at: datetime) -> None:
    first, _ = ids.id_range(at, None)
    _, end = ids.id_range(None, at)
    assert first == end
    assert at <= ids.time_of(first) < at + MILLISECOND


def test_a_time_range_without_bounds_contains_every_id() -> None:
    assert ids.id_range(None, None) == (UUID(int=0), UUID(int=2**128 - 1))


def test_times_outside_the_range_of_ids_are_clamped() -> None:
    assert ids.ceiling_at(datetime(1, 1, 1, tzinfo=UTC)).int == 0
    assert ids.ceiling_at(datetime(1969, 12, 31, tzinfo=UTC)).int == 0
