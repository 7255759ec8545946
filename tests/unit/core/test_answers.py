"""A record is restored from the bytes that it was encoded to."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from vsyncd.postgres.mutations import AnswerCodec


class Record(NamedTuple):
    id: UUID
    digest: bytes
    amount: Decimal
    day: date
    at: datetime | None
    text: str | None
    number: int


RECORDS = st.builds(
    Record,
    st.uuids(),
    st.binary(),
    st.decimals(allow_nan=False, allow_infinity=False, places=2),
    st.dates(),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.none() | st.text(),
    st.integers(-(2**63), 2**63 - 1),
)


@given(RECORDS)
def test_a_record_is_restored_with_its_types(record: Record) -> None:
    codec = AnswerCodec(Record)
    restored = codec.decode(codec.encode(record))
    assert restored == record
    assert [type(value) for value in restored] == [type(value) for value in record]
