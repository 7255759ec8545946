"""A validator reports all invalid fields without their values."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from vsync.v1 import cid_pb2
from vsyncd.core.errors import InvalidFields
from vsyncd.core.validation import Validator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEXT = st.text(max_size=70)
READERS: list[Callable[[Validator, str], object]] = [
    lambda validator, text: validator.cid("field", text),
    lambda validator, text: validator.ispb("field", text),
    lambda validator, text: validator.key("field", text),
    lambda validator, text: validator.uuid("field", text),
    lambda validator, text: validator.day("field", text),
    lambda validator, text: validator.text("field", text, max_chars=5),
]


@given(text=TEXT, reader=st.sampled_from(READERS))
def test_any_text_is_read_or_reported_without_repeating_it(
    text: str, reader: Callable[[Validator, str], object]
) -> None:
    validator = Validator()
    reader(validator, text)
    assert len(validator.violations) <= 1
    for violation in validator.violations:
        assert violation.field == "field"
        assert len(text) < 4 or text not in violation.description


@given(st.binary(min_size=32, max_size=32), st.booleans())
def test_a_cid_is_read_in_either_case(cid: bytes, upper: bool) -> None:
    validator = Validator()
    assert validator.cid("cid", cid.hex().upper() if upper else cid.hex()) == cid
    validator.raise_any()


@given(st.dates())
def test_every_existing_date_is_read(day: date) -> None:
    assert Validator().day("day", day.isoformat()) == day


@pytest.mark.parametrize("text", ["2026-02-30", "2026-2-3", "20260203", "0000-01-01", "2026-W01-1", "", "2026-02-03 "])
def test_an_invalid_date_is_reported(text: str) -> None:
    validator = Validator()
    validator.day("day", text)
    assert validator.violations


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001  bounds have none
def test_a_time_is_read_to_the_microsecond(at: datetime) -> None:
    message = Timestamp()
    message.FromDatetime(at)
    validator = Validator()
    assert validator.time("at", message) == at
    validator.raise_any()


@given(st.integers(0, 253_402_300_799), st.integers(0, 999_999_999), st.integers(-2, 2))
def test_rounding_a_time_does_not_change_comparisons_with_stored_times(seconds: int, nanos: int, apart: int) -> None:
    read = (Validator().time("at", Timestamp(seconds=seconds, nanos=nanos)) - EPOCH) // timedelta(microseconds=1)
    stored = min(seconds * 1_000_000 + nanos // 1_000 + apart, 253_402_300_799_999_998)
    assert (stored < read) is (stored * 1_000 < seconds * 1_000_000_000 + nanos)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_every_timestamp_is_read_or_reported(seconds: int, nanos: int) -> None:
    validator = Validator()
    at = validator.time("at", Timestamp(seconds=seconds, nanos=nanos))
    inside = 0 <= seconds <= 253_402_300_799 and 0 <= nanos < 1_000_000_000
    assert bool(validator.violations) is not inside
    assert at.tzinfo is UTC


def test_the_latest_timestamp_is_read() -> None:
    at = Validator().time("at", Timestamp(seconds=253_402_300_799, nanos=999_999_999))
    assert at == datetime.max.replace(tzinfo=UTC)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_every_duration_is_read_or_reported(seconds: int, nanos: int) -> None:
    validator = Validator()
    length = validator.duration("length", Duration(seconds=seconds, nanos=nanos), min_seconds=1, max_seconds=60)
    assert timedelta(seconds=1) <= length <= timedelta(seconds=60)
    if not validator.violations:
        assert length == timedelta(seconds=seconds, microseconds=nanos // 1000)


def test_all_violations_are_raised_together_in_order() -> None:
    validator = Validator()
    validator.cid("cid", "x")
    validator.ispb("ispb", "x")
    validator.ispb("optional", "", optional=True)
    validator.choice("kind", 0, range(1, 3))
    validator.choice("other", 0, range(1, 3), optional=True)
    validator.one_of("by", None, ("id", "cid"))
    validator.number("count", 11, min_value=1, max_value=10)
    validator.text("text", "a\0", max_chars=5)
    validator.page_size(-1)
    assert validator.optional_uuid("request_id", "") is None
    assert validator.uuid("id", str(UUID(int=3)).upper()) == UUID(int=3)
    with pytest.raises(InvalidFields) as caught:
        validator.raise_any()
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["cid", "ispb", "kind", "by", "count", "text", "page_size"]
    assert caught.value.message == "Bad value in cid, ispb, kind, by, count and 2 more."


def test_a_repeated_element_is_reported() -> None:
    validator = Validator()
    validator.cids("cids", ["aa" * 32, "bb" * 32, "AA" * 32, "", ""])
    noted = [violation.field for violation in validator.violations]
    assert noted == ["cids[3]", "cids[4]", "cids[2]"]


@given(st.decimals(Decimal("0.01"), Decimal("99999999.99"), places=2))
def test_a_decimal_is_read_exactly(number: Decimal) -> None:
    validator = Validator()
    bounds = {"min_value": Decimal("0.01"), "max_value": Decimal("99999999.99")}
    assert validator.decimal("amount", str(number), scale=2, **bounds) == number
    validator.raise_any()


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.001", "100000000", "-1", "+1", "1e2", "01", "1.", ".5", " 1", "1,5", "NaN", "\u0661"],
)
def test_a_decimal_outside_its_range_scale_or_form_is_noted(text: str) -> None:
    validator = Validator()
    validator.decimal("amount", text, scale=2, min_value=Decimal("0.01"), max_value=Decimal("99999999.99"))
    assert [violation.field for violation in validator.violations] == ["amount"]


def test_a_required_time_must_be_set() -> None:
    validator = Validator()
    request = cid_pb2.CidFilter(created_after=Timestamp(seconds=5))
    assert validator.required_time("filter.", request, "created_after") == EPOCH + timedelta(seconds=5)
    assert validator.optional_time("filter.", request, "created_before") is None
    validator.raise_any()
    validator.required_time("filter.", request, "created_before")
    assert validator.violations == [("filter.created_before", "is required")]


def test_a_time_is_rounded_to_microseconds_up_or_down() -> None:
    validator, time = Validator(), Timestamp(seconds=5, nanos=1_001)
    assert validator.time("at", time) == EPOCH + timedelta(seconds=5, microseconds=2)
    assert validator.time("at", time, round_down=True) == EPOCH + timedelta(seconds=5, microseconds=1)
    validator.raise_any()


def test_a_time_range_is_in_order_and_bounded() -> None:
    def violations(after: int, before: int) -> list[str]:
        validator = Validator()
        message = cid_pb2.CidFilter(created_after=Timestamp(seconds=after), created_before=Timestamp(seconds=before))
        validator.time_range("", message, "created_after", "created_before", max_length=timedelta(days=1))
        return [violation.description for violation in validator.violations]

    assert violations(5, 5) == violations(0, 86_400) == []
    assert violations(6, 5) == ["must not be before created_after"]
    assert violations(0, 86_401) == ["must be at most 1 days after created_after"]
    validator = Validator()
    validator.time_range("", cid_pb2.CidFilter(), "created_after", "created_before", required=True)
    assert [violation.field for violation in validator.violations] == ["created_after", "created_before"]
