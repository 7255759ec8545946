"""Messages as fields for people and for JSON: enums by short name, times as RFC 3339, without what is not set."""

import re
from typing import Any, Final, TypeAlias

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

Field: TypeAlias = Any  # FieldDescriptor, of which protobuf's stubs have two that differ

_WORD_START: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


def fields_of(message: Message) -> dict[str, Any]:
    """Returns the fields of a message by the proto's names. Numbers are included even if they are 0."""
    fields = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            fields[field.name] = [_value(field, each) for each in value]
        elif (not field.has_presence or message.HasField(field.name)) and (text := _value(field, value)) != "":
            fields[field.name] = text
    return fields


def short_name(enum: Any, number: int) -> str:  # noqa: ANN401 - as Field
    """Returns the name of an enum's value without the enum's prefix, empty for 0, or an unknown number as text."""
    value = enum.values_by_number.get(number)
    if not number or value is None:
        return str(number) if number else ""
    return str(value.name.removeprefix(f"{_WORD_START.sub('_', enum.name).upper()}_"))


def short_time(time: Timestamp) -> str:
    """Returns a time in UTC to the second, or an empty text if it is not set."""
    return f"{time.ToDatetime():%Y-%m-%d %H:%M:%S}" if time.seconds or time.nanos else ""


def _value(field: Field, value: Any) -> Any:  # noqa: ANN401 - a value of any type of field
    if field.enum_type is not None:
        return short_name(field.enum_type, value)
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Struct):
        return MessageToDict(value)
    return fields_of(value) if isinstance(value, Message) else value
