"""Records as fields of a file: the proto's field names, enum names without their prefix, times as RFC 3339.

{"cid": "28c06eb4...", "key_type": "PHONE", "key_value": "+5511987654321", "ispb": "12345678", ...}
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import EnumDescriptor

from vsync.errors import FieldViolation, VsyncError
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
# Set by the server, and ignored when a file is read.
OUTPUT_FIELDS = ("id", "sync_status", "created_at", "updated_at", "synced_at", "last_error", "revision")
FIELDS = ("id", *INPUT_FIELDS, *OUTPUT_FIELDS[1:])
REQUIRED_COLUMNS = ("cid", "key_type", "key_value", "ispb")
FIELD_NAMES: Mapping[str, str] = {name: name for name in FIELDS} | {
    field.json_name: field.name for field in cid_pb2.CidRecord.DESCRIPTOR.fields
}
"""Maps both names of each field, the proto's and protobuf's JSON name (keyType), to the proto's."""
NOT_UTF8 = "must be UTF-8 text; Windows-1252 and Latin-1 are not accepted"
_MAX_SHOWN_NAME = 40
TIMES = ("created_at", "updated_at", "synced_at")


class RecordError(VsyncError):
    """The fields of a file are not a valid record. The violations contain the fields' names, but not their values."""

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__(violations)
        self.violations = violations

    def __str__(self) -> str:
        """Returns one line: the invalid fields and their rules."""
        return "; ".join(f"{name}: {rule}" if name else rule for name, rule in self.violations)


class EnumNames:
    """The names of an enum's values, without its prefix."""

    def __init__(self, enum: EnumDescriptor, prefix: str) -> None:
        numbered = [(value.name.removeprefix(prefix), value.number) for value in enum.values if value.number]
        self._names = {number: name for name, number in numbered}
        # Any, because the generated code has a separate integer type for each enum.
        self.numbers: Mapping[str, Any] = dict(numbered) | {prefix + name: number for name, number in numbered}
        self.choices = tuple(name for name, _ in numbered)

    def number(self, value: object) -> Any:  # noqa: ANN401 - as above
        """Returns the number of a short name, a full name or a number; None for anything else."""
        if isinstance(value, str):
            return self.numbers.get(value)
        return value if isinstance(value, int) and value in self._names and value is not True else None

    def name(self, number: int) -> str:
        """Returns the short name of a number; the number if this client does not know it; empty for 0."""
        return self._names.get(number, str(number) if number else "")


KEY_TYPES = EnumNames(cid_pb2.KeyType.DESCRIPTOR, "KEY_TYPE_")
ACCOUNT_TYPES = EnumNames(cid_pb2.AccountType.DESCRIPTOR, "ACCOUNT_TYPE_")
SYNC_STATUSES = EnumNames(cid_pb2.SyncStatus.DESCRIPTOR, "SYNC_STATUS_")
ENUM_FIELDS = {"key_type": KEY_TYPES, "account_type": ACCOUNT_TYPES}
_IGNORED = frozenset(OUTPUT_FIELDS)


def record_of(fields: Mapping[str, object]) -> cid_pb2.CidRecord:
    """Returns the record with a file's fields. The server validates the values.

    Accepts the proto's field names and protobuf's JSON names, and enums by short name, full name or number. Raises
    RecordError for an unknown field, a field given under both names, a value that is not text, and an unknown enum
    value.
    """
    values: dict[str, Any] = {}
    violations: list[FieldViolation] = []
    for given, value in fields.items():
        name = FIELD_NAMES.get(given)
        if name is None:
            violations.append(_unknown_field(given))
        elif name in _IGNORED or value is None:
            continue
        elif name in values:
            violations.append(FieldViolation(name, "must not be given under both of its names"))
        elif (enum := ENUM_FIELDS.get(name)) is not None:
            values[name] = enum.number(value)
            if values[name] is None:
                violations.append(FieldViolation(name, f"must be one of {', '.join(enum.choices)}"))
        elif isinstance(value, str):
            values[name] = value
        else:
            violations.append(FieldViolation(name, "must be text in quotes"))
    if violations:
        raise RecordError(*violations)
    try:
        return cid_pb2.CidRecord(**values)
    except ValueError:
        raise RecordError(*_not_unicode(values)) from None


def _unknown_field(name: str) -> FieldViolation:
    """Returns the violation, without the name if it may be a value."""
    if len(name) <= _MAX_SHOWN_NAME and name.isidentifier():
        return FieldViolation(name, "is not a field of a record")
    return FieldViolation("", "has a field whose name is not an identifier")


def _not_unicode(values: Mapping[str, Any]) -> list[FieldViolation]:
    violations = []
    for name, value in values.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            violations.append(FieldViolation(name, NOT_UTF8))
    return violations


def fields_of(record: cid_pb2.CidRecord) -> dict[str, str | int]:
    """Returns the fields that a record has, in the order of FIELDS."""
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
    for name in TIMES:
        if record.HasField(name):  # type: ignore[arg-type] # one of three literals
            fields[name] = getattr(record, name).ToJsonString()
    fields["last_error"] = record.last_error
    fields["revision"] = record.revision
    return {name: value for name, value in fields.items() if value}
