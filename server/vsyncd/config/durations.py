"""Parses durations: `30`, `500ms`, `30s`, `5m`, `1h`, `7d`, and sums such as `1h30m`."""

import re
from fractions import Fraction
from typing import Final

_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")
_MILLISECONDS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(value: object, *, unit: str) -> object:
    """Returns a text with units as a number of `unit` (ms, s, m, h or d). Returns any other value unchanged."""
    text = value.replace(" ", "").lower() if isinstance(value, str) else ""
    if not _DURATION.fullmatch(text):
        return value
    parts = _PART.findall(text)
    return float(sum(Fraction(number) * _MILLISECONDS[name] for number, name in parts) / _MILLISECONDS[unit])
