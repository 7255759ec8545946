"""Notes as they are validated and stored."""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.postgres.tables import RecordTable

MAX_TITLE_CHARS: Final = 100
MAX_TEXT_CHARS: Final = 1_000


class NewNote(NamedTuple):
    """A validated note of a caller."""

    title: str
    text: str


class Note(NamedTuple):
    """A stored note, in the order of the table's columns."""

    id: UUID
    title: str
    text: str
    created_at: datetime


class Page(NamedTuple):
    """Notes, and the id after which the next page begins, or None on the last page."""

    notes: list[Note]
    next_after: UUID | None


TABLES: Final = (RecordTable(Note, "notes", max_chars={"title": MAX_TITLE_CHARS, "text": MAX_TEXT_CHARS}),)
