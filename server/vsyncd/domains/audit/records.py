"""Records of the audit trail."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from vsyncd.core.context import MAX_ACTOR_CHARS, MAX_CORRELATION_ID_CHARS
from vsyncd.core.validation import MAX_KEY_CHARS
from vsyncd.postgres.tables import RecordTable

MAX_ACTION_CHARS: Final = 100
MAX_RESOURCE_CHARS: Final = 255


class NewEntry(NamedTuple):
    """An entry to append. `correlation_id` is the call's if empty. `payload` is JSON text of an object."""

    correlation_id: str
    on_behalf_of: str | None
    action: str
    resource: str | None
    ispb: str | None
    key_value: str | None
    cid: bytes | None
    payload: str | None


class Entry(NamedTuple):
    """An entry of the trail, as the columns of audit_logs. Its time is that of its id, in milliseconds."""

    id: UUID
    created_at: datetime
    correlation_id: str
    recorded_by: str
    on_behalf_of: str | None
    action: str
    resource: str | None
    ispb: str | None
    key_value: str | None
    cid: bytes | None
    payload: Mapping[str, Any] | None


class EntryFilter(NamedTuple):
    """Which entries to list: those whose field `by` (a field of ListAuditLogsRequest) has `value`.

    `ispb` is a further filter, empty for none. The range includes `created_after` and excludes `created_before`.
    """

    by: str
    value: str | bytes
    ispb: str
    created_after: datetime | None
    created_before: datetime | None


class EntryPage(NamedTuple):
    """A page of entries, newest first. The next page has ids below `next_below`; None on the last page."""

    entries: Sequence[Entry]
    next_below: UUID | None


TABLES: Final = (
    RecordTable(
        Entry,
        "audit_logs",
        max_chars={
            "correlation_id": MAX_CORRELATION_ID_CHARS,
            "recorded_by": MAX_ACTOR_CHARS,
            "on_behalf_of": MAX_ACTOR_CHARS,
            "action": MAX_ACTION_CHARS,
            "resource": MAX_RESOURCE_CHARS,
            "key_value": MAX_KEY_CHARS,
        },
    ),
)
