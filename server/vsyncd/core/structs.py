"""Converts google.protobuf.Struct to JSON that jsonb stores unchanged, and back."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from google.protobuf.struct_pb2 import Struct, Value

MAX_BYTES: Final = 16 * 1024

Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | bool | None"


class UnfitStruct(ValueError):  # noqa: N818 - the name says what happened
    """The Struct cannot be stored. The text says why."""


def json_of(struct: Struct) -> str:
    """Returns canonical JSON text of at most 16 KiB. Raises UnfitStruct.

    Every number of a Struct is a double, and reading the text returns the same double. jsonb supports neither NaN nor
    infinities nor NUL characters (PostgreSQL's manual, 8.14).
    """
    text = json.dumps(plain_object(struct), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    if len(text.encode()) > MAX_BYTES:
        raise UnfitStruct(f"must have at most {MAX_BYTES:,} bytes as JSON")
    return text


def struct_of(value: Mapping[str, Any]) -> Struct:
    """Returns the message of a JSON object that psycopg has read."""
    struct = Struct()
    struct.update(value)
    return struct


def plain_object(struct: Struct) -> dict[str, Json]:
    """Returns a Struct as a JSON object. A number that a double represents exactly is an int. Raises UnfitStruct."""
    return {_text(name): _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Json:
    match value.WhichOneof("kind"):
        case "null_value":
            return None
        case "bool_value":
            return value.bool_value
        case "number_value":
            return _number(value.number_value)
        case "string_value":
            return _text(value.string_value)
        case "struct_value":
            return plain_object(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case _:
            raise UnfitStruct("must not contain a value without a kind")


def _number(number: float) -> float | int:
    if not math.isfinite(number):
        raise UnfitStruct("must not contain NaN or an infinity")
    # An integer is written as 1 instead of 1.0 if a double represents it exactly.
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number


def _text(text: str) -> str:
    if "\0" in text:
        raise UnfitStruct("must not contain NUL characters")
    return text
