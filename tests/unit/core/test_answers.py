"""A record is restored from the bytes that it was encoded to."""

from datetime import UTC

from hypothesis import given
from hypothesis import strategies as st
from vsyncd.core.answers import decode_answer, encode_answer

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(),
    st.binary(),
    st.dates(),
    st.datetimes(timezones=st.just(UTC)),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.uuids(),
)


@given(st.lists(VALUES))
def test_a_record_is_restored_with_its_types(values: list[object]) -> None:
    restored = decode_answer(encode_answer(values))
    assert restored == values
    assert [type(value) for value in restored] == [type(value) for value in values]
