"""Envelopes: opened by who has the key, under the name they were sealed for, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.cache.envelopes import ERROR, VALUE, Envelope, Envelopes

NAME, OTHER = b"vsync:cid:0123456789abcdef", b"vsync:cid:0123456789abcdeX"
STAMP = b"12345678"
KEYS = [None, bytes(32), bytes(31) + b"\1"]


@pytest.mark.parametrize("key", KEYS)
@given(payload=st.binary(max_size=300), kind=st.sampled_from((VALUE, ERROR)))
def test_what_was_sealed_is_opened(key: bytes | None, payload: bytes, kind: int) -> None:
    envelopes = Envelopes(key)
    envelope = Envelope(kind, STAMP, payload)
    assert envelopes.open(NAME, envelopes.seal(NAME, envelope)) == envelope


def test_another_key_another_name_and_another_head_do_not_open_it() -> None:
    data = Envelopes(KEYS[1]).seal(NAME, Envelope(VALUE, STAMP, b"payload"))
    assert b"payload" not in data
    assert Envelopes(KEYS[2]).open(NAME, data) is None
    assert Envelopes(None).open(NAME, data) is None
    assert Envelopes(KEYS[1]).open(OTHER, data) is None
    assert Envelopes(KEYS[1]).open(NAME, data[:2] + b"87654321" + data[10:]) is None
    assert Envelopes(KEYS[1]).open(NAME, Envelopes(None).seal(NAME, Envelope(VALUE, STAMP, b"payload"))) is None


@pytest.mark.parametrize("key", KEYS)
@given(data=st.binary(max_size=60))
def test_whatever_else_is_there_is_no_envelope_or_a_plain_one(key: bytes | None, data: bytes) -> None:
    opened = Envelopes(key).open(NAME, data)
    assert opened is None or (key is None and data.startswith(b"\1"))
