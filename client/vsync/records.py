"""The file form of a record: the proto's field names, enum names without their prefix, times as RFC 3339.

{"cid": "28c06eb4...", "key_type": "PHONE", "key_value": "+5511987654321", "ispb": "12345678", ...}
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import EnumDescriptor

from vsync.errors import VsyncError
from vsync.failures import Violation
from vsync.v1 import cid_pb2

INPUT_FIELDS = (
    "cid",
    "key_type",
    "key_value",
    "ispb",
    "branch",
    "account_number",
    "account_type",
    "tax_id",
    "dict_request_id",
)
# Given by the service, ignored when a file is read.
OUTPUT_FIELDS = ("id", "sync_status", "created_at", "updated_at", "synced_at", "last_error", "revision")
FIELDS = ("id", *INPUT_FIELDS, *OUTPUT_FIELDS[1:])
_OPTIONAL = ("branch", "dict_request_id", "last_error")
_TIMES = ("created_at", "updated_at", "synced_at")


class RecordError(VsyncError):
    """A record of a file that is not in the file form. The violations name its fields and repeat no value."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__(violations)
        self.violations = violations

    def __str__(self) -> str:
        """The bad fields and what they take."""
        return "; ".join(f"{name}: {takes}" if name else takes for name, takes in self.violations)


class EnumNames:
    """The names of an enum's values, without its prefix. Reading takes the full ones too."""

    def __init__(self, enum: EnumDescriptor, prefix: str) -> None:
        numbered = [(value.name.removeprefix(prefix), value.number) for value in enum.values if value.number]
        self._names = {number: name for name, number in numbered}
        # The generated types have an own integer type for each enum: Any stands for all of them.
        self.numbers: Mapping[str, Any] = dict(numbered) | {prefix + name: number for name, number in numbered}
        self.choices = tuple(name for name, _ in numbered)

    def name(self, number: int) -> str:
        """The short name of a number; the number itself when this client does not know it yet; empty for 0."""
        return self._names.get(number, str(number) if number else "")


KEY_TYPES = EnumNames(cid_pb2.KeyType.DESCRIPTOR, "KEY_TYPE_")
ACCOUNT_TYPES = EnumNames(cid_pb2.AccountType.DESCRIPTOR, "ACCOUNT_TYPE_")
SYNC_STATUSES = EnumNames(cid_pb2.SyncStatus.DESCRIPTOR, "SYNC_STATUS_")
_ENUMS = {"key_type": KEY_TYPES, "account_type": ACCOUNT_TYPES}
_KNOWN = frozenset(FIELDS)
_IGNORED = frozenset(OUTPUT_FIELDS)


def record_of(fields: Mapping[str, object]) -> cid_pb2.CidRecord:
    """The record that a file's fields describe. Whether its values are right is the server's to say.

    Raises RecordError for a field that does not exist, a value that is no text, and an unknown name of an enum.
    """
    values: dict[str, Any] = {}
    bad: list[Violation] = []
    for name, value in fields.items():
        if name in _IGNORED or value is None:
            continue
        if name not in _KNOWN:
            bad.append(Violation("", "has a field that records do not have"))
        elif not isinstance(value, str):
            bad.append(Violation(name, "must be text in quotes"))
        elif (enum := _ENUMS.get(name)) is None:
            values[name] = value
        elif (number := enum.numbers.get(value)) is None:
            bad.append(Violation(name, f"must be one of {', '.join(enum.choices)}"))
        else:
            values[name] = number
    if bad:
        raise RecordError(*bad)
    try:
        return cid_pb2.CidRecord(**values)
    except ValueError:
        raise RecordError(*_not_unicode(values)) from None


def _not_unicode(values: Mapping[str, Any]) -> list[Violation]:
    bad = []
    for name, value in values.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            bad.append(Violation(name, "must be UTF-8 text"))
    return bad


def fields_of(record: cid_pb2.CidRecord) -> dict[str, str | int]:
    """A record's fields in their order, without those that it does not have."""
    fields: dict[str, str | int] = {
        "id": record.id,
        "cid": record.cid,
        "key_type": KEY_TYPES.name(record.key_type),
        "key_value": record.key_value,
        "ispb": record.ispb,
        "branch": record.branch,
        "account_number": record.account_number,
        "account_type": ACCOUNT_TYPES.name(record.account_type),
        "tax_id": record.tax_id,
        "dict_request_id": record.dict_request_id,
        "sync_status": SYNC_STATUSES.name(record.sync_status),
    }
    for name in _TIMES:
        if record.HasField(name):  # type: ignore[arg-type] # one of three literals
            fields[name] = getattr(record, name).ToJsonString()
    fields["last_error"] = record.last_error
    fields["revision"] = record.revision
    return {name: value for name, value in fields.items() if value}
