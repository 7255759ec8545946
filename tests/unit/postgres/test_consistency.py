"""Places in the log, and tokens."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.core.context import RequestContext
from vsyncd.core.errors import InvalidFields
from vsyncd.postgres.consistency import CONSISTENCY, TOKEN, ReadPreference, Reads, WalPosition, read_preference

POSITIONS = st.builds(WalPosition, st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1))


@given(POSITIONS)
def test_a_token_says_what_was_put_in(position: WalPosition) -> None:
    token = position.encode()
    assert WalPosition.decode(token) == WalPosition.decode(token.encode()) == position
    assert token.isascii()
    assert len(token) < 30


@given(st.text(max_size=30) | st.binary(max_size=30))
def test_what_is_no_token_is_refused(text: str | bytes) -> None:
    with suppress(ValueError):
        assert WalPosition.decode(WalPosition.decode(text).encode()) == WalPosition.decode(text)


def test_a_server_on_an_earlier_timeline_does_not_cover_a_later_one() -> None:
    assert WalPosition(1, 100).covers(WalPosition(1, 100))
    assert not WalPosition(1, 100).covers(WalPosition(1, 101))
    assert not WalPosition(1, 100).covers(WalPosition(2, 50))
    assert WalPosition(2, 100).covers(WalPosition(1, 100))


def test_a_call_says_where_it_wants_to_be_read() -> None:
    token = WalPosition(1, 5).encode()
    assert read_preference(RequestContext("m"), Reads.MANY) == ReadPreference(Reads.MANY)
    assert read_preference(RequestContext("m", {CONSISTENCY: "strong"}), Reads.MANY) == ReadPreference(Reads.PRIMARY)
    assert read_preference(
        RequestContext("m", {CONSISTENCY: "eventual", TOKEN: token}), Reads.SINGLE
    ) == ReadPreference(Reads.MANY, WalPosition(1, 5))
    with pytest.raises(InvalidFields) as raised:
        read_preference(RequestContext("m", {CONSISTENCY: "x", TOKEN: "y"}), Reads.SINGLE)
    assert [violation.field for violation in raised.value.violations] == [CONSISTENCY, TOKEN]
