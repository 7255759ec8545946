"""Pix keys: the canonical form of each type, in which the directory and vsyncd store them."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from vsync.v1 import cid_pb2


class KeyForm(NamedTuple):
    """The canonical form of a key type."""

    matches: Callable[[str], object | None]
    """Returns a match if the text is in the form."""
    rule: str
    """The rule, worded to follow a field's name in an error message."""


# The service's database has the same forms in the CHECK cids_key_value. The e-mail's is the directory's.
KEY_FORMS: Final[Mapping[int, KeyForm]] = MappingProxyType(
    {
        cid_pb2.KEY_TYPE_CPF: KeyForm(re.compile(r"[0-9]{11}").fullmatch, "must be 11 digits for a CPF"),
        cid_pb2.KEY_TYPE_CNPJ: KeyForm(
            re.compile(r"[0-9A-Z]{12}[0-9]{2}").fullmatch,
            "must be 14 characters for a CNPJ: 12 of A-Z or 0-9, then two digits",
        ),
        cid_pb2.KEY_TYPE_PHONE: KeyForm(
            re.compile(r"\+[1-9][0-9]{1,14}").fullmatch, "must be in E.164 for a PHONE: + and 2 to 15 digits"
        ),
        cid_pb2.KEY_TYPE_EMAIL: KeyForm(
            re.compile(r"(?=.{3,77}\Z)[a-z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?").fullmatch,
            "must be an address in lower case of at most 77 characters for an EMAIL",
        ),
        cid_pb2.KEY_TYPE_EVP: KeyForm(
            re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch,
            "must be a UUID in lower case, with hyphens, for an EVP",
        ),
    }
)
ANY_KEY_RULE: Final = (
    "must be a key in its canonical form: 11 digits (CPF), 12 of A-Z or 0-9 and two digits (CNPJ), E.164 (PHONE),"
    " an address in lower case (EMAIL), or a UUID in lower case with hyphens (EVP)"
)

# Keys as people write them. The separators of a CPF are accepted only in their usual places, because a phone number
# without its country code has 11 digits, too.
_CPF: Final = re.compile(r"[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}-?[0-9]{2}").fullmatch
_CNPJ: Final = re.compile(r"[0-9A-Za-z]{2}\.?[0-9A-Za-z]{3}\.?[0-9A-Za-z]{3}/?[0-9A-Za-z]{4}-?[0-9]{2}").fullmatch
_PHONE: Final = re.compile(r"\+[0-9 ().-]+").fullmatch
_EVP: Final = re.compile(r"\{?[0-9A-Fa-f]{8}(?:-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}\}?").fullmatch
_PUNCTUATION: Final = str.maketrans("", "", " ./()-{}")


def is_canonical_key(value: str) -> bool:
    """Returns whether a text is a key of any type in its canonical form."""
    return any(form.matches(value) for form in KEY_FORMS.values())


def normalize_key(value: str, key_type: int | None = None) -> str:
    """Returns the canonical form of a Pix key that was written by a person.

    Removes surrounding blanks and the usual punctuation of a CPF (111.222.333-00), a CNPJ, a PHONE
    (+55 (11) 98765-4321) and an EVP; converts a CNPJ to upper case, an EMAIL and an EVP to lower case. `key_type` is a
    KeyType; without it, the type is recognised from the value. A PHONE needs its country code. Check digits are not
    verified.

    Raises ValueError if the text is not a key of that type, or of any type. The message contains the rule, but not the
    value.
    """
    key = _normalized(value.strip())
    if key_type is None:
        if not is_canonical_key(key):
            raise ValueError(ANY_KEY_RULE)
    elif key_type not in KEY_FORMS:
        raise ValueError("key_type must be one of KeyType other than UNSPECIFIED")
    elif not KEY_FORMS[key_type].matches(key):
        raise ValueError(KEY_FORMS[key_type].rule)
    return key


def _normalized(text: str) -> str:
    """Returns the canonical form for the type that the text resembles, or the text itself if it resembles none."""
    if not text.isascii():  # lower() turns some other letters, such as the Kelvin sign, into ASCII
        return text
    if "@" in text:
        return text.lower()
    if _CPF(text) or _PHONE(text):
        return text.translate(_PUNCTUATION)
    if _CNPJ(text):
        return text.translate(_PUNCTUATION).upper()
    if _EVP(text):
        digits = text.translate(_PUNCTUATION).lower()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return text
