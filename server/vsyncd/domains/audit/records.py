"""What the audit trail holds, as the repository takes and gives it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID


class NewEntry(NamedTuple):
    """An entry to append. `correlation_id` and `actor` empty: the call's. `payload` is JSON text of an object."""

    correlation_id: str
    actor: str
    action: str
    key_value: str | None
    cid: bytes | None
    payload: str | None


class Entry(NamedTuple):
    """An entry of the trail. Its time is that of its id, to the millisecond."""

    id: UUID
    created_at: datetime
    correlation_id: str
    actor: str
    action: str
    key_value: str | None
    cid: bytes | None
    payload: Mapping[str, Any] | None


class EntryFilter(NamedTuple):
    """What to list: `by` names the one way of asking (a field of ListAuditLogsRequest), `value` what is asked for.

    `created_after` is in the range, `created_before` is not.
    """

    by: str
    value: str | bytes
    created_after: datetime | None
    created_before: datetime | None
