"""Protobuf messages as JSON, as the health contract has them."""

from typing import Any, TypeAlias

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Field: TypeAlias = Any  # FieldDescriptor, of which protobuf's stubs have two that differ


def as_json(message: Message) -> dict[str, Any]:
    """Returns a message with the proto's names, defaults, enums by name, and times in RFC 3339.

    64-bit integers are numbers; protobuf's own JSON has them as strings. Omits message fields that are not set.
    """
    return {
        field.name: _field_value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _field_value(field: Field, value: Any) -> Any:  # noqa: ANN401 - a value of any type of field
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    return [_single_value(field, item) for item in value] if field.is_repeated else _single_value(field, value)


def _single_value(field: Field, value: Any) -> Any:  # noqa: ANN401 - as above
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    return as_json(value) if isinstance(value, Message) else value
