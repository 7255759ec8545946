"""Reads and validates the fields of a request, and reports all invalid fields together.

    with Validator() as validator:
        cid = validator.cid("cid", request.cid)
        day = validator.day("batch_date", request.batch_date)

For an invalid field a reader adds a violation and returns a placeholder, so that the other fields can be read. A
violation never contains the value.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final, Self
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from vsync.keys import ANY_KEY_RULE, is_canonical_key

from vsyncd.core.errors import InvalidFields, Violation
from vsyncd.core.paging import page_size
from vsyncd.core.text import INVISIBLE_RULE, has_invisible, normalize

MAX_BATCH: Final = 1_000
# The text of an error has at most twice as many bytes.
MAX_ERROR_CHARS: Final = 1_000
MAX_KEY_CHARS: Final = 77

CID_FORM = re.compile(r"[0-9a-fA-F]{64}").fullmatch
ISPB_FORM = re.compile(r"[0-9]{8}").fullmatch
TAX_ID_FORM = re.compile(r"[0-9]{11}|[0-9A-Z]{12}[0-9]{2}").fullmatch
UUID_FORM = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
# At most 40 digits: PostgreSQL's numeric has more, and no field needs them.
_DECIMAL_FORM = re.compile(r"-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,40})?").fullmatch
_DAY_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").fullmatch

CID_RULE: Final = "must be 64 hexadecimal digits"
ISPB_RULE: Final = "must be 8 digits"
TAX_ID_RULE: Final = "must be 11 digits, or 14 characters of which the first 12 are A-Z or 0-9 and the last two digits"
UUID_RULE: Final = "must be a UUID with hyphens"

NO_ID: Final = UUID(int=0)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_SECONDS: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the end of Timestamp's range


class Validator:
    """Collects the violations of one request. At the end of a `with` block it raises InvalidFields if there are any."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.raise_any()

    def add(self, field: str, description: str) -> None:
        self.violations.append(Violation(field, description))

    def raise_any(self) -> None:
        """Raises InvalidFields if there are violations."""
        if self.violations:
            raise InvalidFields(self.violations)

    def cid(self, field: str, value: str) -> bytes:
        """Returns a CID as 32 bytes, or no bytes if it is invalid."""
        if CID_FORM(value) is None:
            self.add(field, CID_RULE)
            return b""
        return bytes.fromhex(value)

    def cids(self, field: str, values: Sequence[str]) -> list[bytes]:
        """Returns 1 to 1,000 distinct CIDs, or none if their number is invalid."""
        if not self.batch(field, values):
            return []
        cids = [self.cid(f"{field}[{index}]", value) for index, value in enumerate(values)]
        self.distinct(field, cids, "the same cid appears earlier in the request")
        return cids

    def batch(self, field: str, values: Sequence[object]) -> bool:
        """Returns whether there are 1 to 1,000 values."""
        if not 1 <= len(values) <= MAX_BATCH:
            self.add(field, f"must have 1 to {MAX_BATCH:,} elements")
            return False
        return True

    def distinct(self, field: str, values: Sequence[object], description: str, suffix: str = "") -> None:
        """Adds a violation for each repeated value. Empty values have violations already."""
        if len(set(values)) == len(values):
            return
        seen: set[object] = set()
        for index, value in enumerate(values):
            if value in seen and value:
                self.add(f"{field}[{index}]{suffix}", description)
            seen.add(value)

    def ispb(self, field: str, value: str, *, optional: bool = False) -> str:
        """Returns an ISPB. `optional`: it may be empty."""
        if not (optional and not value) and ISPB_FORM(value) is None:
            self.add(field, ISPB_RULE + (", or empty" if optional else ""))
        return value

    def key(self, field: str, value: str, *, optional: bool = False) -> str:
        """Returns a Pix key of any type, which must be in canonical form. `optional`: it may be empty."""
        if not (optional and not value) and not is_canonical_key(value):
            self.add(field, ANY_KEY_RULE + (", or empty" if optional else ""))
        return value

    def uuid(self, field: str, value: str) -> UUID:
        """Returns a UUID, or NO_ID if it is invalid."""
        if UUID_FORM(value) is None:
            self.add(field, UUID_RULE)
            return NO_ID
        return UUID(value)

    def optional_uuid(self, field: str, value: str) -> UUID | None:
        """Returns a UUID, or None for an empty string."""
        return self.uuid(field, value) if value else None

    def choice(self, field: str, value: int, allowed: range, *, optional: bool = False) -> int:
        """Returns an enum value in `allowed`. `optional`: it may be UNSPECIFIED (0)."""
        if value not in allowed and not (optional and value == 0):
            self.add(field, "must be a known value" + ("" if optional else " other than UNSPECIFIED"))
        return value

    def one_of(self, message_field: str, chosen: str | None, names: Sequence[str]) -> str:
        """Returns the name of the set field of a required oneof, or an empty string if none is set."""
        if chosen is None:
            self.add(message_field, f"exactly one of {', '.join(names)} is required")
            return ""
        return chosen

    def error_text(self, field: str, value: str) -> str:
        """Returns the text of an error. Its bytes are limited too, so that 1,000 of them fit into one message."""
        text = self.text(field, value, max_chars=MAX_ERROR_CHARS)
        if len(text) <= MAX_ERROR_CHARS < len(text.encode()) / 2:
            self.add(field, f"must have at most {2 * MAX_ERROR_CHARS:,} bytes")
        return text

    def text(self, field: str, value: str, *, max_chars: int, min_chars: int = 1) -> str:
        """Returns a text without NUL characters, which PostgreSQL cannot store."""
        if not min_chars <= len(value) <= max_chars:
            self.add(field, f"must have {min_chars:,} to {max_chars:,} characters")
        elif "\0" in value:
            self.add(field, "must not contain NUL characters")
        return value

    def identifier(self, field: str, value: str, *, max_chars: int, min_chars: int = 1) -> str:
        """Returns a normalized text (NFKC) without invisible characters."""
        text = normalize(value)
        if has_invisible(text):
            self.add(field, INVISIBLE_RULE)
            return text
        return self.text(field, text, max_chars=max_chars, min_chars=min_chars)

    def number(self, field: str, value: int, *, min_value: int, max_value: int) -> int:
        """Returns a number within the bounds, which are inclusive."""
        if not min_value <= value <= max_value:
            self.add(field, f"must be {min_value:,} to {max_value:,}")
        return value

    def duration(self, field: str, value: Duration, *, min_seconds: int, max_seconds: int) -> timedelta:
        """Returns a duration in whole microseconds, or `min_seconds` if it is invalid. The bounds are inclusive."""
        length = value.seconds * 1_000_000_000 + value.nanos
        canonical = 0 <= value.nanos < 1_000_000_000
        if not (canonical and min_seconds * 1_000_000_000 <= length <= max_seconds * 1_000_000_000):
            self.add(field, f"must be {min_seconds:,} to {max_seconds:,} seconds")
            return timedelta(seconds=min_seconds)
        return timedelta(microseconds=length // 1_000)

    def page_size(self, value: int) -> int:
        """Returns the size of a page (paging.page_size), or 1 if it is invalid."""
        try:
            return page_size(value)
        except InvalidFields as error:
            self.violations += error.violations
            return 1

    def matching(
        self, field: str, value: str, form: Callable[[str], object | None], rule: str, *, optional: bool = False
    ) -> str:
        """Returns a text for which `form` (re.Pattern.fullmatch) returns a match. `optional`: it may be empty."""
        if not (optional and not value) and form(value) is None:
            self.add(field, rule)
        return value

    def day(self, field: str, value: str) -> date:
        """Returns a date given as YYYY-MM-DD, or date.min if it is invalid."""
        try:
            if _DAY_FORM(value) is not None:
                return date.fromisoformat(value)
        except ValueError:
            pass  # a date that does not exist
        self.add(field, "must be an existing date, as YYYY-MM-DD")
        return date.min

    def time(self, field: str, value: Timestamp, *, round_down: bool = False) -> datetime:
        """Returns a time from 1970 to 9999, rounded up to microseconds, or the epoch if it is invalid.

        Rounding up does not change the result of a filter: stored times have whole microseconds or milliseconds, so
        each is before the given time exactly if it is before the rounded time. `round_down` is for a time to be stored,
        and for a filter that includes the given time.
        """
        if not (0 <= value.seconds <= _MAX_SECONDS and 0 <= value.nanos < 1_000_000_000):
            self.add(field, "must be a time from 1970 to 9999")
            return _EPOCH
        microseconds = value.nanos // 1_000 if round_down else -(-value.nanos // 1_000)
        microseconds = min(microseconds, 999_999 if value.seconds == _MAX_SECONDS else 1_000_000)
        return _EPOCH + timedelta(seconds=value.seconds, microseconds=microseconds)

    def required_time(self, prefix: str, message: Message, name: str, *, round_down: bool = False) -> datetime:
        """Returns the time in a field of `message` that must be set; see `time`. `prefix` is the message's path."""
        if not message.HasField(name):
            self.add(prefix + name, "is required")
            return _EPOCH
        return self.time(prefix + name, getattr(message, name), round_down=round_down)

    def optional_time(self, prefix: str, message: Message, name: str, *, round_down: bool = False) -> datetime | None:
        """Returns the time in a field of `message`, or None if it is not set; see `time`."""
        if not message.HasField(name):
            return None
        return self.time(prefix + name, getattr(message, name), round_down=round_down)

    def time_range(
        self,
        prefix: str,
        message: Message,
        first: str,
        last: str,
        *,
        required: bool = False,
        max_length: timedelta | None = None,
    ) -> tuple[datetime | None, datetime | None]:
        """Returns the times in the fields `first` and `last`, of which the second must not be before the first.

        `max_length` limits the range if both are set.
        """
        read = self.required_time if required else self.optional_time
        begin, end = read(prefix, message, first), read(prefix, message, last)
        if begin is not None and end is not None:
            if end < begin:
                self.add(prefix + last, f"must not be before {first}")
            elif max_length is not None and end - begin > max_length:
                self.add(prefix + last, f"must be at most {max_length.days} days after {first}")
        return begin, end

    def decimal(self, field: str, value: str, *, scale: int, min_value: Decimal, max_value: Decimal) -> Decimal:
        """Returns an exact decimal number with at most `scale` decimals, or `min_value` if it is invalid.

        The bounds are inclusive. Signs other than a leading minus, exponents and superfluous zeros are not accepted.
        """
        if _DECIMAL_FORM(value) is not None and len(value.partition(".")[2]) <= scale:
            number = Decimal(value)
            if min_value <= number <= max_value:
                return number
        self.add(field, f"must be a decimal number from {min_value} to {max_value} with at most {scale} decimals")
        return min_value
