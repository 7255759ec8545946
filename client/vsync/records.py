"""The file form of a record: the proto's field names, enum names without their prefix, times as RFC 3339.

{"cid": "28c06eb4...", "key_type": "PHONE", "key_value": "+5511987654321", "ispb": "12345678", ...}
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import EnumDescriptor

from vsync.errors import VsyncError
from vsync.rpc_status import Violation
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
REQUIRED_COLUMNS = ("cid", "key_type", "key_value", "ispb")
FIELD_NAMES: Mapping[str, str] = {name: name for name in FIELDS} | {
    field.json_name: field.name for field in cid_pb2.CidRecord.DESCRIPTOR.fields
}
"""Both names of each field, its own and the one in protobuf's JSON (keyType), with the field's own name."""
NOT_UTF8 = "must be UTF-8 text; Windows-1252 and Latin-1 are not accepted"
_MAX_SHOWN_NAME = 40
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
    """The names of an enum's values, without its prefix."""

    def __init__(self, enum: EnumDescriptor, prefix: str) -> None:
        numbered = [(value.name.removeprefix(prefix), value.number) for value in enum.values if value.number]
        self._names = {number: name for name, number in numbered}
        # The generated types have an own integer type for each enum: Any stands for all of them.
        self.numbers: Mapping[str, Any] = dict(numbered) | {prefix + name: number for name, number in numbered}
        self.choices = tuple(name for name, _ in numbered)

    def number(self, value: object) -> Any:  # noqa: ANN401 - as above
        """The number of a short name, a full name or a number; None for anything else."""
        if isinstance(value, str):
            return self.numbers.get(value)
        return value if isinstance(value, int) and value in self._names and value is not True else None

    def name(self, number: int) -> str:
        """The short name of a number; the number itself when this client does not know it yet; empty for 0."""
        return self._names.get(number, str(number) if number else "")


KEY_TYPES = EnumNames(cid_pb2.KeyType.DESCRIPTOR, "KEY_TYPE_")
ACCOUNT_TYPES = EnumNames(cid_pb2.AccountType.DESCRIPTOR, "ACCOUNT_TYPE_")
SYNC_STATUSES = EnumNames(cid_pb2.SyncStatus.DESCRIPTOR, "SYNC_STATUS_")
_ENUMS = {"key_type": KEY_TYPES, "account_type": ACCOUNT_TYPES}
_IGNORED = frozenset(OUTPUT_FIELDS)


def record_of(fields: Mapping[str, object]) -> cid_pb2.CidRecord:
    """The record that a file's fields describe. The server validates its values.

    Takes the proto's field names and those of protobuf's JSON, and enums by short name, full name or number. Raises
    RecordError for an unknown field, a field given under both names, a value that is not text, and an unknown enum
    value.
    """
    values: dict[str, Any] = {}
    bad: list[Violation] = []
    for given, value in fields.items():
        name = FIELD_NAMES.get(given)
        if name is None:
            bad.append(_unknown_field(given))
        elif name in _IGNORED or value is None:
            continue
        elif name in values:
            bad.append(Violation(name, "is given twice, under both of its names"))
        elif (enum := _ENUMS.get(name)) is not None:
            values[name] = enum.number(value)
            if values[name] is None:
                bad.append(Violation(name, f"must be one of {', '.join(enum.choices)}"))
        elif isinstance(value, str):
            values[name] = value
        else:
            bad.append(Violation(name, "must be text in quotes"))
    if bad:
        raise RecordError(*bad)
    try:
        return cid_pb2.CidRecord(**values)
    except ValueError:
        raise RecordError(*_not_unicode(values)) from None


def _unknown_field(name: str) -> Violation:
    """Names the field, unless what is there in place of a name may be a value."""
    if len(name) <= _MAX_SHOWN_NAME and name.isidentifier():
        return Violation(name, "is no field of a record")
    return Violation("", "has a field whose name is no identifier")


def _not_unicode(values: Mapping[str, Any]) -> list[Violation]:
    bad = []
    for name, value in values.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            bad.append(Violation(name, NOT_UTF8))
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
