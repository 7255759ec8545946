"""Places in the log, and tokens."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.core.context import RequestContext
from vsyncd.core.errors import InvalidFields
from vsyncd.postgres.consistency import (
    CONSISTENCY,
    TOKEN,
    ConsistencyToken,
    ReadPreference,
    Reads,
    WalPosition,
    read_preference,
)

POSITIONS = st.builds(WalPosition, st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1))


@given(POSITIONS, st.booleans())
def test_a_token_decodes_to_what_was_encoded(position: WalPosition, past_cache: bool) -> None:
    token = position.encode(past_cache=past_cache)
    assert ConsistencyToken.decode(token) == ConsistencyToken.decode(token.encode()) == (position, past_cache)
    assert token.isascii()
    assert len(token) < 30


@given(st.text(max_size=30) | st.binary(max_size=30))
def test_an_invalid_token_is_refused(text: str | bytes) -> None:
    with suppress(ValueError):
        position, past_cache = token = ConsistencyToken.decode(text)
        assert ConsistencyToken.decode(position.encode(past_cache=past_cache)) == token


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
    ) == ReadPreference(Reads.MANY, WalPosition(1, 5), past_cache=True)
    with pytest.raises(InvalidFields) as raised:
        read_preference(RequestContext("m", {CONSISTENCY: "x", TOKEN: "y"}), Reads.SINGLE)
    assert [violation.field for violation in raised.value.violations] == [CONSISTENCY, TOKEN]


def test_only_the_token_of_a_write_that_may_have_changed_cached_records_bypasses_the_cache() -> None:
    for past_cache in (True, False):
        call = RequestContext("m", {TOKEN: WalPosition(1, 5).encode(past_cache=past_cache)})
        preference = read_preference(call, Reads.SINGLE)
        assert (preference.position, preference.allows_cache) == (WalPosition(1, 5), not past_cache)
    assert not read_preference(RequestContext("m", {CONSISTENCY: "strong"}), Reads.SINGLE).allows_cache
    assert not read_preference(RequestContext("m", {CONSISTENCY: "eventual"}), Reads.SINGLE).allows_cache
