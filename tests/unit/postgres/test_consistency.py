"""WAL positions, consistency tokens and read preferences."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.core.context import CONSISTENCY_TOKEN_HEADER, RequestContext
from vsyncd.core.errors import InvalidFields
from vsyncd.postgres.consistency import (
    CONSISTENCY_HEADER,
    ConsistencyToken,
    ReadMode,
    ReadPreference,
    WalPosition,
    read_preference,
)

POSITIONS = st.builds(WalPosition, st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1))


@given(POSITIONS, st.booleans())
def test_a_token_decodes_to_what_was_encoded(position: WalPosition, bypass_cache: bool) -> None:
    token = position.encode(bypass_cache=bypass_cache)
    assert ConsistencyToken.decode(token) == ConsistencyToken.decode(token.encode()) == (position, bypass_cache)
    assert token.isascii()
    assert len(token) < 30


@given(st.text(max_size=30) | st.binary(max_size=30))
def test_an_invalid_token_is_rejected(text: str | bytes) -> None:
    with suppress(ValueError):
        position, bypass_cache = token = ConsistencyToken.decode(text)
        assert ConsistencyToken.decode(position.encode(bypass_cache=bypass_cache)) == token


def test_a_position_on_an_earlier_timeline_does_not_cover_one_on_a_later_timeline() -> None:
    assert WalPosition(1, 100).covers(WalPosition(1, 100))
    assert not WalPosition(1, 100).covers(WalPosition(1, 101))
    assert not WalPosition(1, 100).covers(WalPosition(2, 50))
    assert WalPosition(2, 100).covers(WalPosition(1, 100))


def preference_for(mode: ReadMode, **metadata: str) -> ReadPreference:
    """The preference of a call with this metadata, by `consistency` and `token`."""
    headers = {"consistency": CONSISTENCY_HEADER, "token": CONSISTENCY_TOKEN_HEADER}
    return read_preference(RequestContext("m", {headers[name]: value for name, value in metadata.items()}), mode)


def test_metadata_overrides_the_read_mode_of_the_method() -> None:
    replica = ReadMode.REPLICA_PREFERRED
    assert preference_for(replica) == ReadPreference(replica)
    assert preference_for(replica, consistency="strong") == ReadPreference(ReadMode.PRIMARY)
    position = WalPosition(1, 5)
    eventual = preference_for(ReadMode.PRIMARY_PREFERRED, consistency="eventual", token=position.encode())
    assert eventual == ReadPreference(replica, position, bypass_cache=True)


def test_only_the_token_of_a_write_that_may_have_changed_cached_records_bypasses_the_cache() -> None:
    position = WalPosition(1, 5)
    for bypass_cache in (True, False):
        token = position.encode(bypass_cache=bypass_cache)
        preference = preference_for(ReadMode.PRIMARY_PREFERRED, token=token)
        assert (preference.min_position, preference.allows_cache) == (position, not bypass_cache)
    for consistency in ("strong", "eventual"):
        assert not preference_for(ReadMode.PRIMARY_PREFERRED, consistency=consistency).allows_cache


def test_every_invalid_metadata_value_is_reported() -> None:
    with pytest.raises(InvalidFields) as raised:
        preference_for(ReadMode.PRIMARY_PREFERRED, consistency="x", token="y")
    assert [violation.field for violation in raised.value.violations] == [CONSISTENCY_HEADER, CONSISTENCY_TOKEN_HEADER]
