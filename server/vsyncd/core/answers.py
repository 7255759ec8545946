"""Encodes records as the bytes from which a repeated request is answered."""

from typing import Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter

R = TypeVar("R")


class AnswerCodec(Generic[R]):
    """Encodes the records of one class, such as a NamedTuple, as JSON."""

    def __init__(self, record: type[R]) -> None:
        config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
        self._adapter: TypeAdapter[R] = TypeAdapter(record, config=config)

    def encode(self, record: R) -> bytes:
        """Returns a record as bytes."""
        return self._adapter.dump_json(record)

    def decode(self, data: bytes) -> R:
        """Returns the record that `encode` was given."""
        return self._adapter.validate_json(data)
