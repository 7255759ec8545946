"""Places in the log, and tokens."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.call import Call
from vsyncd.errors import InvalidFields
from vsyncd.postgres.consistency import CONSISTENCY, TOKEN, Position, Reads, Wish, wish_of

POSITIONS = st.builds(Position, st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1))


@given(POSITIONS)
def test_a_token_says_what_was_put_in(position: Position) -> None:
    token = position.encode()
    assert Position.decode(token) == Position.decode(token.encode()) == position
    assert token.isascii()
    assert len(token) < 30


@given(st.text(max_size=30) | st.binary(max_size=30))
def test_what_is_no_token_is_refused(text: str | bytes) -> None:
    with suppress(ValueError):
        assert Position.decode(Position.decode(text).encode()) == Position.decode(text)


def test_a_server_on_an_earlier_timeline_does_not_cover_a_later_one() -> None:
    assert Position(1, 100).covers(Position(1, 100))
    assert not Position(1, 100).covers(Position(1, 101))
    assert not Position(1, 100).covers(Position(2, 50))
    assert Position(2, 100).covers(Position(1, 100))


def test_a_call_says_where_it_wants_to_be_read() -> None:
    token = Position(1, 5).encode()
    assert wish_of(Call("m"), Reads.MANY) == Wish(Reads.MANY)
    assert wish_of(Call("m", {CONSISTENCY: "strong"}), Reads.MANY) == Wish(Reads.PRIMARY)
    assert wish_of(Call("m", {CONSISTENCY: "eventual", TOKEN: token}), Reads.SINGLE) == Wish(Reads.MANY, Position(1, 5))
    with pytest.raises(InvalidFields) as raised:
        wish_of(Call("m", {CONSISTENCY: "x", TOKEN: "y"}), Reads.SINGLE)
    assert [violation.field for violation in raised.value.violations] == [CONSISTENCY, TOKEN]
