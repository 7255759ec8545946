"""Sealing and opening of envelopes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.cache.encoding import ERROR, VALUE, Envelope, Envelopes

SECRET = b"epoch"
KEY, OTHER_KEY = b"vsync:cid:0123456789abcdef", b"vsync:cid:0123456789abcdeX"
STAMP = b"12345678"
ENCRYPTION_KEYS = [None, bytes(32), bytes(31) + b"\1"]


@pytest.mark.parametrize("encryption_key", ENCRYPTION_KEYS)
@given(payload=st.binary(max_size=300), kind=st.sampled_from((VALUE, ERROR)))
def test_a_sealed_envelope_is_opened(encryption_key: bytes | None, payload: bytes, kind: int) -> None:
    envelopes = Envelopes(encryption_key)
    envelope = Envelope(kind, STAMP, payload)
    assert envelopes.open(SECRET, KEY, envelopes.seal(SECRET, KEY, envelope)) == envelope


@pytest.mark.parametrize("encryption_key", ENCRYPTION_KEYS)
def test_an_envelope_with_another_key_epoch_stamp_or_kind_is_a_miss(encryption_key: bytes | None) -> None:
    envelopes = Envelopes(encryption_key)
    data = envelopes.seal(SECRET, KEY, Envelope(VALUE, STAMP, b"payload"))
    assert envelopes.open(SECRET, OTHER_KEY, data) is None
    assert envelopes.open(b"another", KEY, data) is None
    assert envelopes.open(SECRET, KEY, data[:2] + b"87654321" + data[10:]) is None
    assert envelopes.open(SECRET, KEY, data[:1] + bytes((data[1] ^ ERROR,)) + data[2:]) is None


def test_an_envelope_of_either_configured_key_is_opened() -> None:
    old, new = ENCRYPTION_KEYS[1:3]
    assert old is not None
    assert new is not None
    envelope = Envelope(VALUE, b"12345678", b"record")
    for writer, reader in (
        (Envelopes(old), Envelopes(old, new)),
        (Envelopes(old, new), Envelopes(old)),
        (Envelopes(new, old), Envelopes(old, new)),
        (Envelopes(old), Envelopes(new, old)),
    ):
        assert reader.open(SECRET, KEY, writer.seal(SECRET, KEY, envelope)) == envelope
    assert Envelopes(old).open(SECRET, KEY, Envelopes(new, old).seal(SECRET, KEY, envelope)) is None


def test_an_envelope_of_another_encryption_key_is_a_miss() -> None:
    data = Envelopes(ENCRYPTION_KEYS[1]).seal(SECRET, KEY, Envelope(VALUE, STAMP, b"payload"))
    assert b"payload" not in data
    for encryption_key in (ENCRYPTION_KEYS[2], None):
        assert Envelopes(encryption_key).open(SECRET, KEY, data) is None
    plain = Envelopes(None).seal(SECRET, KEY, Envelope(VALUE, STAMP, b"payload"))
    assert Envelopes(ENCRYPTION_KEYS[1]).open(SECRET, KEY, plain) is None


@pytest.mark.parametrize("encryption_key", ENCRYPTION_KEYS)
@given(data=st.data())
def test_a_damaged_envelope_is_a_miss(encryption_key: bytes | None, data: st.DataObject) -> None:
    envelopes = Envelopes(encryption_key)
    sealed = bytearray(envelopes.seal(SECRET, KEY, Envelope(VALUE, STAMP, b"payload")))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    assert envelopes.open(SECRET, KEY, bytes(sealed)) is None
    assert envelopes.open(SECRET, KEY, bytes(sealed[:at])) is None


@pytest.mark.parametrize("encryption_key", ENCRYPTION_KEYS)
@given(data=st.binary(max_size=60))
def test_arbitrary_bytes_are_a_miss(encryption_key: bytes | None, data: bytes) -> None:
    assert Envelopes(encryption_key).open(SECRET, KEY, data) is None


def test_each_envelope_has_its_own_salt() -> None:
    envelopes = Envelopes(ENCRYPTION_KEYS[1])
    sealed = {envelopes.seal(SECRET, KEY, Envelope(VALUE, STAMP, b"payload"))[10:22] for _ in range(100)}
    assert len(sealed) == 100
