"""Reads and validates the messages of audit.proto, and builds messages from records."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from vsync.v1 import audit_pb2

from vsyncd.core.context import CORRELATION_ID_FORM, MAX_ACTOR_CHARS, MAX_CORRELATION_ID_CHARS
from vsyncd.core.structs import UnfitStruct, json_of, struct_of
from vsyncd.core.text import normalize, strip_invisible
from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import Validator
from vsyncd.domains.audit.records import MAX_ACTION_CHARS, MAX_RESOURCE_CHARS, Entry, EntryFilter, NewEntry

MAX_RANGE: Final = timedelta(days=31)

_CORRELATION_ID_RULE: Final = f"must be 1 to {MAX_CORRELATION_ID_CHARS} visible ASCII characters"
# Without a range, a list by one of these could read years of entries for a page.
_NEED_RANGE: Final = frozenset({"action", "actor", "recorded_by", "ispb"})
_LIST_FIELDS: Final = ("correlation_id", "key_value", "cid", "action", "actor", "resource", "recorded_by")
_MAX_CHARS: Final = MappingProxyType(
    {
        "action": MAX_ACTION_CHARS,
        "actor": MAX_ACTOR_CHARS,
        "recorded_by": MAX_ACTOR_CHARS,
        "resource": MAX_RESOURCE_CHARS,
    }
)


class ReservedActions:
    """The actions that only vsyncd itself writes: the methods of every package that it serves, or could serve."""

    def __init__(self, services: Iterable[str]) -> None:
        packages = {"vsync", *(service.rpartition(".")[0] for service in services)}
        self._prefixes = tuple(_comparable(package) + "." for package in packages)

    def __contains__(self, action: object) -> bool:
        return _comparable(str(action)).startswith(self._prefixes)


def _comparable(action: str) -> str:
    """Returns an action without differences of case, and without spaces and invisible characters."""
    return strip_invisible(normalize(normalize(action).casefold())).replace(" ", "")


def read_entry(validator: Validator, field: str, log: audit_pb2.AuditLog, reserved: ReservedActions) -> NewEntry:
    """Reads an entry to append. `field` is its path in the request."""
    action = validator.identifier(f"{field}.action", log.action, max_chars=MAX_ACTION_CHARS)
    actor_field = "on_behalf_of" if log.on_behalf_of else "actor"
    if action in reserved:
        validator.add(f"{field}.action", 'must not begin with a package of vsyncd, such as "vsync."')
    return NewEntry(
        correlation_id=_correlation_id(validator, f"{field}.correlation_id", log.correlation_id, optional=True),
        on_behalf_of=_optional(validator, field, actor_field, getattr(log, actor_field), MAX_ACTOR_CHARS),
        action=action,
        resource=_optional(validator, field, "resource", log.resource, MAX_RESOURCE_CHARS),
        ispb=validator.ispb(f"{field}.ispb", log.ispb, optional=True) or None,
        key_value=validator.key(f"{field}.key_value", log.key_value, optional=True) or None,
        cid=validator.cid(f"{field}.cid", log.cid) if log.cid else None,
        payload=_payload(validator, f"{field}.payload", log) if log.HasField("payload") else None,
    )


def read_entries(
    validator: Validator, field: str, logs: Sequence[audit_pb2.AuditLog], reserved: ReservedActions
) -> list[NewEntry]:
    """Reads 1 to 1,000 entries to append."""
    if not validator.batch(field, logs):
        return []
    return [read_entry(validator, f"{field}[{index}]", log, reserved) for index, log in enumerate(logs)]


def read_filter(validator: Validator, request: audit_pb2.ListAuditLogsRequest) -> EntryFilter:
    ispb = validator.ispb("ispb", request.ispb, optional=True)
    chosen = request.WhichOneof("by")
    by = "ispb" if chosen is None and ispb else validator.one_of("by", chosen, _LIST_FIELDS)
    max_length = MAX_RANGE if by in _NEED_RANGE else None
    after, before = validator.time_range("", request, "created_after", "created_before", max_length=max_length)
    if by in _NEED_RANGE:
        for field, value in (("created_after", after), ("created_before", before)):
            if value is None:
                validator.add(field, f"is required with {by}")
    return EntryFilter(by, _value(validator, by, request), ispb, after, before)


def message_of(entry: Entry) -> audit_pb2.AuditLog:
    return audit_pb2.AuditLog(
        id=str(entry.id),
        correlation_id=entry.correlation_id,
        actor=entry.on_behalf_of or entry.recorded_by,
        recorded_by=entry.recorded_by,
        on_behalf_of=entry.on_behalf_of or "",
        action=entry.action,
        resource=entry.resource or "",
        ispb=entry.ispb or "",
        key_value=entry.key_value or "",
        cid=entry.cid.hex() if entry.cid else "",
        payload=None if entry.payload is None else struct_of(entry.payload),
        created_at=timestamp(entry.created_at),
    )


def _value(validator: Validator, by: str, request: audit_pb2.ListAuditLogsRequest) -> str | bytes:
    if by in {"key_value", "cid"}:
        return validator.key(by, request.key_value) if by == "key_value" else validator.cid(by, request.cid)
    if by == "correlation_id":
        return _correlation_id(validator, by, request.correlation_id)
    if by in _MAX_CHARS:
        return validator.identifier(by, getattr(request, by), max_chars=_MAX_CHARS[by])
    return request.ispb  # or empty, if one_of has added a violation


def _optional(validator: Validator, path: str, field: str, value: str, max_chars: int) -> str | None:
    return validator.identifier(f"{path}.{field}", value, max_chars=max_chars, min_chars=0) or None


def _correlation_id(validator: Validator, field: str, value: str, *, optional: bool = False) -> str:
    return validator.matching(field, normalize(value), CORRELATION_ID_FORM, _CORRELATION_ID_RULE, optional=optional)


def _payload(validator: Validator, field: str, log: audit_pb2.AuditLog) -> str | None:
    try:
        return json_of(log.payload)
    except UnfitStruct as unfit:
        validator.add(field, str(unfit))
        return None
