"""vsync.v1's audit messages: read and checked, and made from records."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from vsync.v1 import audit_pb2

from vsyncd.core.context import MAX_ACTOR_CHARS
from vsyncd.core.validation import Validator
from vsyncd.domains.audit.payloads import UnfitPayload, json_of, struct_of
from vsyncd.domains.audit.records import Entry, EntryFilter, NewEntry

MAX_ACTION: Final = 100
MAX_RANGE: Final = timedelta(days=31)
RESERVED: Final = "vsync."

_CORRELATION_ID_FORM = re.compile(r"[!-~]{1,128}").fullmatch
_CORRELATION_ID_RULE: Final = "must be 1 to 128 visible ASCII characters"
# By these alone a page may lie anywhere in the years that are kept.
_NEED_A_RANGE: Final = frozenset({"action", "actor"})
_WAYS: Final = ("correlation_id", "key_value", "cid", "action", "actor")


def read_entry(validator: Validator, field: str, log: audit_pb2.AuditLog) -> NewEntry:
    """An entry to append; `field` is where it stands in the request."""
    action = validator.text(f"{field}.action", log.action, max_chars=MAX_ACTION)
    if action.startswith(RESERVED):
        validator.add(f"{field}.action", f'must not begin with "{RESERVED}", which is kept for the service itself')
    return NewEntry(
        correlation_id=_correlation_id(validator, f"{field}.correlation_id", log.correlation_id, optional=True),
        actor=validator.text(f"{field}.actor", log.actor, max_chars=MAX_ACTOR_CHARS, min_chars=0),
        action=action,
        key_value=validator.key(f"{field}.key_value", log.key_value, optional=True) or None,
        cid=validator.cid(f"{field}.cid", log.cid) if log.cid else None,
        payload=_payload(validator, f"{field}.payload", log) if log.HasField("payload") else None,
    )


def read_entries(validator: Validator, field: str, logs: Sequence[audit_pb2.AuditLog]) -> list[NewEntry]:
    """1 to 1,000 entries to append."""
    if not validator.batch(field, logs):
        return []
    return [read_entry(validator, f"{field}[{index}]", log) for index, log in enumerate(logs)]


def read_filter(validator: Validator, request: audit_pb2.ListAuditLogsRequest) -> EntryFilter:
    """What a list is to be of."""
    by = validator.one_of("by", request.WhichOneof("by"), _WAYS)
    after = validator.time("created_after", request.created_after) if request.HasField("created_after") else None
    before = validator.time("created_before", request.created_before) if request.HasField("created_before") else None
    if by in _NEED_A_RANGE:
        for field, value in (("created_after", after), ("created_before", before)):
            if value is None:
                validator.add(field, f"is required with {by}")
    if after is not None and before is not None:
        if before < after:
            validator.add("created_before", "must not be before created_after")
        elif by in _NEED_A_RANGE and before - after > MAX_RANGE:
            validator.add("created_before", f"must be at most {MAX_RANGE.days} days after created_after")
    return EntryFilter(by, _value(validator, by, request), after, before)


def message_of(entry: Entry) -> audit_pb2.AuditLog:
    """The message for an entry."""
    created_at = Timestamp()
    created_at.FromDatetime(entry.created_at)
    return audit_pb2.AuditLog(
        id=str(entry.id),
        correlation_id=entry.correlation_id,
        actor=entry.actor,
        action=entry.action,
        key_value=entry.key_value or "",
        cid=entry.cid.hex() if entry.cid else "",
        payload=None if entry.payload is None else struct_of(entry.payload),
        created_at=created_at,
    )


def _value(validator: Validator, by: str, request: audit_pb2.ListAuditLogsRequest) -> str | bytes:
    match by:
        case "correlation_id":
            return _correlation_id(validator, by, request.correlation_id)
        case "key_value":
            return validator.key(by, request.key_value)
        case "cid":
            return validator.cid(by, request.cid)
        case "action":
            return validator.text(by, request.action, max_chars=MAX_ACTION)
        case "actor":
            return validator.text(by, request.actor, max_chars=MAX_ACTOR_CHARS)
        case _:
            return ""  # noted already: nothing was asked for


def _correlation_id(validator: Validator, field: str, value: str, *, optional: bool = False) -> str:
    return validator.matching(field, value, _CORRELATION_ID_FORM, _CORRELATION_ID_RULE, optional=optional)


def _payload(validator: Validator, field: str, log: audit_pb2.AuditLog) -> str | None:
    try:
        return json_of(log.payload)
    except UnfitPayload as unfit:
        validator.add(field, str(unfit))
        return None
