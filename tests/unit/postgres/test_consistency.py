"""Places in the log, tokens, and how far behind a replica is."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.call import Call
from vsyncd.errors import InvalidFields
from vsyncd.postgres.consistency import CONSISTENCY, TOKEN, Position, Reads, Wish, wish_of
from vsyncd.postgres.lag import History, Lag

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


def test_lag_is_the_age_of_what_the_replica_lacks() -> None:
    history = History()
    assert history.lag(0, 10) == Lag(0, 0)
    for at, lsn in ((10, 100), (11, 100), (12, 150), (13, 200)):
        history.note(at, lsn)
    assert history.lag(20, 200) == Lag(0, 0)
    assert history.lag(20, 150) == Lag(7, 50)
    assert history.lag(20, 120) == Lag(8, 80)
    assert history.lag(20, 90) == Lag(10, 110)


def test_a_new_primary_begins_a_new_history() -> None:
    history = History()
    history.note(10, 200)
    history.note(11, 150)
    assert history.lag(12, 140) == Lag(1, 10)
    assert history.lag(12, 160) == Lag(0, 0)
