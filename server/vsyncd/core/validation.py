"""Reading the fields of a request: each problem is noted, none is raised before all of them are found.

    problems = Validator()
    cid = problems.cid("cid", request.cid)
    day = problems.day("batch_date", request.batch_date)
    problems.raise_any()

A reader gives back a usable value even for a bad field, so that the reading goes on. A value is never echoed.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from vsync.keys import ANY_KEY_RULE, is_canonical_key

from vsyncd.core.errors import InvalidFields, Violation
from vsyncd.core.paging import page_size

MAX_BATCH: Final = 1_000
# Characters of an error's text; and twice as many bytes.
MAX_ERROR: Final = 1_000

CID_FORM = re.compile(r"[0-9a-fA-F]{64}").fullmatch
ISPB_FORM = re.compile(r"[0-9]{8}").fullmatch
TAX_ID_FORM = re.compile(r"[0-9]{11}|[0-9A-Z]{12}[0-9]{2}").fullmatch
UUID_FORM = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_DAY_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").fullmatch

CID_RULE: Final = "must be 64 hexadecimal digits"
ISPB_RULE: Final = "must be 8 digits"
TAX_ID_RULE: Final = "must be 11 digits, or 14 characters of which the first 12 are A-Z or 0-9 and the last two digits"
UUID_RULE: Final = "must be a UUID with hyphens"

NO_ID: Final = UUID(int=0)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_SECONDS: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the end of Timestamp's range


class Validator:
    """The bad fields found so far."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """Note a bad field."""
        self.violations.append(Violation(field, description))

    def raise_any(self) -> None:
        """Raise InvalidFields when anything was noted."""
        if self.violations:
            raise InvalidFields(self.violations)

    def cid(self, field: str, value: str) -> bytes:
        """A content identifier, as its 32 bytes."""
        if CID_FORM(value) is None:
            self.add(field, CID_RULE)
            return b""
        return bytes.fromhex(value)

    def cids(self, field: str, values: Sequence[str]) -> list[bytes]:
        """1 to 1,000 content identifiers, none twice."""
        if not self.batch(field, values):
            return []
        cids = [self.cid(f"{field}[{index}]", value) for index, value in enumerate(values)]
        self.distinct(field, cids, "the same cid stands earlier in the request")
        return cids

    def batch(self, field: str, values: Sequence[object]) -> bool:
        """Whether there are 1 to 1,000 of them."""
        if not 1 <= len(values) <= MAX_BATCH:
            self.add(field, f"must have 1 to {MAX_BATCH:,} elements")
            return False
        return True

    def distinct(self, field: str, values: Sequence[object], description: str, suffix: str = "") -> None:
        """None of the values (but empty ones, which are bad already) stands twice."""
        if len(set(values)) == len(values):
            return
        seen: set[object] = set()
        for index, value in enumerate(values):
            if value in seen and value:
                self.add(f"{field}[{index}]{suffix}", description)
            seen.add(value)

    def ispb(self, field: str, value: str, *, optional: bool = False) -> str:
        """A participant; `optional`: may be empty."""
        if not (optional and not value) and ISPB_FORM(value) is None:
            self.add(field, ISPB_RULE + (", or empty" if optional else ""))
        return value

    def key(self, field: str, value: str, *, optional: bool = False) -> str:
        """A Pix key of any type, in its canonical form; `optional`: may be empty."""
        if not (optional and not value) and not is_canonical_key(value):
            self.add(field, ANY_KEY_RULE + (", or empty" if optional else ""))
        return value

    def uuid(self, field: str, value: str) -> UUID:
        """A UUID."""
        if UUID_FORM(value) is None:
            self.add(field, UUID_RULE)
            return NO_ID
        return UUID(value)

    def optional_uuid(self, field: str, value: str) -> UUID | None:
        """A UUID, or None for an empty string: request_id is read with this."""
        return self.uuid(field, value) if value else None

    def choice(self, field: str, value: int, allowed: range, *, optional: bool = False) -> int:
        """A value of an enumeration; `optional`: UNSPECIFIED (0) may stand for any."""
        if value not in allowed and not (optional and value == 0):
            self.add(field, "must be a known value" + ("" if optional else " other than UNSPECIFIED"))
        return value

    def one_of(self, message_field: str, chosen: str | None, names: Sequence[str]) -> str:
        """The member of a oneof that is set, which is required."""
        if chosen is None:
            self.add(message_field, f"exactly one of {', '.join(names)} is required")
            return ""
        return chosen

    def error_text(self, field: str, value: str) -> str:
        """Why something failed. Bounded in bytes too, so that 1,000 records that failed fit into a message."""
        text = self.text(field, value, at_most=MAX_ERROR)
        if len(text) <= MAX_ERROR < len(text.encode()) / 2:
            self.add(field, f"must have at most {2 * MAX_ERROR:,} bytes")
        return text

    def text(self, field: str, value: str, *, at_most: int, at_least: int = 1) -> str:
        """Free text of a bounded number of characters, without NUL (which PostgreSQL cannot store)."""
        if not at_least <= len(value) <= at_most:
            self.add(field, f"must have {at_least:,} to {at_most:,} characters")
        elif "\0" in value:
            self.add(field, "must not contain NUL characters")
        return value

    def number(self, field: str, value: int, *, at_least: int, at_most: int) -> int:
        """A number within bounds."""
        if not at_least <= value <= at_most:
            self.add(field, f"must be {at_least:,} to {at_most:,}")
        return value

    def duration(self, field: str, value: Duration, *, at_least: int, at_most: int) -> timedelta:
        """A length of time within bounds, given in seconds; to the microsecond."""
        length = value.seconds * 1_000_000_000 + value.nanos
        canonical = 0 <= value.nanos < 1_000_000_000
        if not (canonical and at_least * 1_000_000_000 <= length <= at_most * 1_000_000_000):
            self.add(field, f"must be {at_least:,} to {at_most:,} seconds")
            return timedelta(seconds=at_least)
        return timedelta(microseconds=length // 1_000)

    def page_size(self, value: int) -> int:
        """The size of a page: see paging.page_size."""
        try:
            return page_size(value)
        except InvalidFields as error:
            self.violations += error.violations
            return 1

    def matching(
        self, field: str, value: str, form: Callable[[str], object | None], rule: str, *, optional: bool = False
    ) -> str:
        """Text of a form."""
        if not (optional and not value) and form(value) is None:
            self.add(field, rule)
        return value

    def day(self, field: str, value: str) -> date:
        """A calendar day, YYYY-MM-DD."""
        try:
            if _DAY_FORM(value) is not None:
                return date.fromisoformat(value)
        except ValueError:
            pass  # the form is right and the day does not exist: the same answer
        self.add(field, "must be a day that exists, as YYYY-MM-DD")
        return date.min

    def time(self, field: str, value: Timestamp) -> datetime:
        """A point in time between the years 1970 and 9999, as the first microsecond that is not before it.

        What is stored has whole microseconds, or milliseconds: it is before the given time just when it is before the
        one read, and not before it just when it is not. Filters ask nothing else.
        """
        if not (0 <= value.seconds <= _MAX_SECONDS and 0 <= value.nanos < 1_000_000_000):
            self.add(field, "must be a time from 1970 to 9999")
            return _EPOCH
        microseconds = min(-(-value.nanos // 1_000), 999_999 if value.seconds == _MAX_SECONDS else 1_000_000)
        return _EPOCH + timedelta(seconds=value.seconds, microseconds=microseconds)
