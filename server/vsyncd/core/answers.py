"""Encodes a record as the bytes that a repeated request is answered from."""

import json
from collections.abc import Callable, Iterable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

_TYPES: Final[dict[str, tuple[type, Callable[[Any], str], Callable[[str], object]]]] = {
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),  # before date, its base class
    "date": (date, date.isoformat, date.fromisoformat),
    "decimal": (Decimal, str, Decimal),
    "uuid": (UUID, str, UUID),
}


def encode_answer(values: Iterable[object]) -> bytes:
    """Returns the values of a record as bytes: JSON, with the type of each value that JSON does not have."""
    return json.dumps([_plain(value) for value in values]).encode()


def decode_answer(data: bytes) -> list[Any]:
    """Returns the values that `encode_answer` was given."""
    return [_value(plain) for plain in json.loads(data)]


def _plain(value: object) -> object:
    for name, (kind, encode, _) in _TYPES.items():
        if isinstance(value, kind):
            return {name: encode(value)}
    return value


def _value(plain: object) -> object:
    if not isinstance(plain, dict):
        return plain
    ((name, text),) = plain.items()
    return _TYPES[name][2](text)
