"""Envelopes: opened by who has the key, under the name they were sealed for, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.cache.envelopes import ERROR, VALUE, Envelope, Envelopes

SECRET = b"epoch"
NAME, OTHER = b"vsync:cid:0123456789abcdef", b"vsync:cid:0123456789abcdeX"
STAMP = b"12345678"
KEYS = [None, bytes(32), bytes(31) + b"\1"]


@pytest.mark.parametrize("key", KEYS)
@given(payload=st.binary(max_size=300), kind=st.sampled_from((VALUE, ERROR)))
def test_what_was_sealed_is_opened(key: bytes | None, payload: bytes, kind: int) -> None:
    envelopes = Envelopes(key)
    envelope = Envelope(kind, STAMP, payload)
    assert envelopes.open(SECRET, NAME, envelopes.seal(SECRET, NAME, envelope)) == envelope


@pytest.mark.parametrize("key", KEYS)
def test_another_name_another_epoch_and_another_head_do_not_open_it(key: bytes | None) -> None:
    envelopes = Envelopes(key)
    data = envelopes.seal(SECRET, NAME, Envelope(VALUE, STAMP, b"payload"))
    assert envelopes.open(SECRET, OTHER, data) is None
    assert envelopes.open(b"another", NAME, data) is None
    assert envelopes.open(SECRET, NAME, data[:2] + b"87654321" + data[10:]) is None
    assert envelopes.open(SECRET, NAME, data[:1] + bytes((data[1] ^ ERROR,)) + data[2:]) is None


def test_another_key_does_not_open_it() -> None:
    data = Envelopes(KEYS[1]).seal(SECRET, NAME, Envelope(VALUE, STAMP, b"payload"))
    assert b"payload" not in data
    for key in (KEYS[2], None):
        assert Envelopes(key).open(SECRET, NAME, data) is None
    plain = Envelopes(None).seal(SECRET, NAME, Envelope(VALUE, STAMP, b"payload"))
    assert Envelopes(KEYS[1]).open(SECRET, NAME, plain) is None


@pytest.mark.parametrize("key", KEYS)
@given(data=st.data())
def test_any_damage_makes_it_a_miss(key: bytes | None, data: st.DataObject) -> None:
    envelopes = Envelopes(key)
    sealed = bytearray(envelopes.seal(SECRET, NAME, Envelope(VALUE, STAMP, b"payload")))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    assert envelopes.open(SECRET, NAME, bytes(sealed)) is None
    assert envelopes.open(SECRET, NAME, bytes(sealed[:at])) is None


@pytest.mark.parametrize("key", KEYS)
@given(data=st.binary(max_size=60))
def test_whatever_else_is_there_is_no_envelope(key: bytes | None, data: bytes) -> None:
    assert Envelopes(key).open(SECRET, NAME, data) is None


def test_no_two_envelopes_are_encrypted_alike() -> None:
    envelopes = Envelopes(KEYS[1])
    sealed = {envelopes.seal(SECRET, NAME, Envelope(VALUE, STAMP, b"payload"))[10:22] for _ in range(100)}
    assert len(sealed) == 100, "each has a key of its own"
