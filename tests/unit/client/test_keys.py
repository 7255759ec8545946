"""Keys: as people write them, and in their canonical form."""

import re

import pytest
import vsync
from hypothesis import given
from hypothesis import strategies as st
from vsync.keys import ANY_KEY_RULE, KEY_FORMS, is_canonical_key
from vsync.sample import entries
from vsync.v1.cid_pb2 import KEY_TYPE_CNPJ, KEY_TYPE_CPF, KEY_TYPE_EMAIL, KEY_TYPE_EVP, KEY_TYPE_PHONE, KeyType

WRITTEN: list[tuple[KeyType.ValueType, str, str]] = [
    (KEY_TYPE_CPF, "111.222.333-00", "11122233300"),
    (KEY_TYPE_CPF, "111222333-00", "11122233300"),
    (KEY_TYPE_CPF, " 11122233300\n", "11122233300"),
    (KEY_TYPE_CNPJ, "12.abc.345/01de-35", "12ABC34501DE35"),
    (KEY_TYPE_CNPJ, "12abc34501de35", "12ABC34501DE35"),
    (KEY_TYPE_CNPJ, "12.345.678/0001-95", "12345678000195"),
    (KEY_TYPE_PHONE, "+55 (11) 98765-4321", "+5511987654321"),
    (KEY_TYPE_PHONE, "+55.11.98765.4321", "+5511987654321"),
    (KEY_TYPE_EMAIL, " Maria.Silva@Example.COM ", "maria.silva@example.com"),
    (KEY_TYPE_EVP, "5B4A3C2D-0000-4000-8000-0123456789AB", "5b4a3c2d-0000-4000-8000-0123456789ab"),
    (KEY_TYPE_EVP, "{5b4a3c2d-0000-4000-8000-0123456789ab}", "5b4a3c2d-0000-4000-8000-0123456789ab"),
    (KEY_TYPE_EVP, "5b4a3c2d000040008000" + "0123456789ab", "5b4a3c2d-0000-4000-8000-0123456789ab"),
]
NO_KEYS = [
    "",
    " ",
    "1112223330",
    "(11) 98765-4321",
    "11 98765-4321",
    "+0511987654321",
    "+",
    "maria",
    "maria@",
    "maria@exam ple.com",
    "maria@\u212aelvin.com",
    "\u0661" * 11,
    "m" * 70 + "@example.com",
    "5b4a3c2d-0000-4000-8000",
    "12ABC34501DEXY",
]


@pytest.mark.parametrize(("key_type", "written", "canonical"), WRITTEN)
def test_a_handwritten_key_is_converted_to_its_canonical_form(
    key_type: KeyType.ValueType, written: str, canonical: str
) -> None:
    assert vsync.normalize_key(written) == vsync.normalize_key(written, key_type) == canonical


@pytest.mark.parametrize("text", NO_KEYS)
def test_an_invalid_key_is_an_error_with_the_rule_and_without_the_value(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(ANY_KEY_RULE)}$"):
        vsync.normalize_key(text)


def test_a_key_of_another_type_is_an_error_with_the_rule_of_the_type() -> None:
    for key_type, form in KEY_FORMS.items():
        for other, _, canonical in WRITTEN:
            if other != key_type:
                with pytest.raises(ValueError, match=f"^{re.escape(form.rule)}$"):
                    vsync.normalize_key(canonical, key_type)
    with pytest.raises(ValueError, match="key_type"):
        vsync.normalize_key("11122233300", 0)


def test_canonical_keys_remain_unchanged() -> None:
    for record in entries(500):
        assert vsync.normalize_key(record.key_value) == record.key_value
        assert vsync.normalize_key(record.key_value, record.key_type) == record.key_value


@given(st.text(st.characters(codec="utf-8"), max_size=90) | st.from_regex(r"[+0-9a-zA-Z@./(){} -]{0,40}"))
def test_any_text_becomes_a_canonical_key_or_an_error(text: str) -> None:
    try:
        key = vsync.normalize_key(text)
    except ValueError:
        assert not is_canonical_key(text)
    else:
        assert is_canonical_key(key)
        assert vsync.normalize_key(key) == key
