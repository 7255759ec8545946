"""Compares two results, which are JSON values. Pure.

A result is stored as jsonb. Its canonical text is JSON with sorted names and, as PostgreSQL writes it, with a space
after each colon and comma.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from vsyncd.domains.shadow.records import MAX_PATH_CHARS

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch
_EXACT_BELOW = 1 << 53


def canonical_text(value: Mapping[str, Any]) -> str:
    """Returns the canonical text of a result. Two results are equal exactly if their texts are."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def normal_form(value: Any) -> Any:  # noqa: ANN401  any JSON value
    """Returns a result that was read from jsonb as it was before: with each number that a double holds as the double.

    PostgreSQL writes 1e23 as an integer with 24 digits.
    """
    if isinstance(value, dict):
        return {name: normal_form(item) for name, item in value.items()}
    if isinstance(value, list):
        return [normal_form(item) for item in value]
    if isinstance(value, int) and abs(value) >= _EXACT_BELOW:
        return float(value)
    return value


def stored_bytes(value: Any, text: str) -> int:  # noqa: ANN401  any JSON value
    """Returns the length of a result as PostgreSQL writes it. `text` is its canonical text.

    PostgreSQL writes numbers without exponents.
    """
    return len(text.encode()) + (_added_digits(value) if "e" in text else 0)


def differing_paths(primary: Any, shadow: Any, *, tolerance: float, path: str = "") -> Iterator[str]:  # noqa: ANN401
    """Yields the paths at which two results differ, in the order of names and positions.

    Objects are compared by name and lists by position. Numbers are equal if they differ by at most `tolerance`,
    absolute or relative to the larger one. If a value is missing in one result or has another type, its path is
    reported, and not those within it.
    """
    if isinstance(primary, dict) and isinstance(shadow, dict):
        for name in sorted(primary.keys() | shadow.keys()):
            inner = _member(path, name)
            if name in primary and name in shadow:
                yield from differing_paths(primary[name], shadow[name], tolerance=tolerance, path=inner)
            else:
                yield cut_off(inner)
    elif isinstance(primary, list) and isinstance(shadow, list):
        for index in range(max(len(primary), len(shadow))):
            inner = f"{path}[{index}]"
            if index < min(len(primary), len(shadow)):
                yield from differing_paths(primary[index], shadow[index], tolerance=tolerance, path=inner)
            else:
                yield cut_off(inner)
    elif not _are_equal(primary, shadow, tolerance):
        yield cut_off(path)


def cut_off(path: str) -> str:
    """Returns a path that is no longer than the table permits."""
    return path if len(path) <= MAX_PATH_CHARS else path[: MAX_PATH_CHARS - 1] + "…"


def _member(path: str, name: str) -> str:
    if _PLAIN_NAME(name):
        return f"{path}.{name}" if path else name
    return f"{path}[{json.dumps(name, ensure_ascii=False)}]"


def _is_number(value: Any) -> bool:  # noqa: ANN401  any JSON value
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_equal(one: Any, other: Any, tolerance: float) -> bool:  # noqa: ANN401  any JSON values
    if _is_number(one) and _is_number(other):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return type(one) is type(other) and bool(one == other)


def _added_digits(value: Any) -> int:  # noqa: ANN401  any JSON value
    if isinstance(value, dict):
        return sum(map(_added_digits, value.values()))
    if isinstance(value, list):
        return sum(map(_added_digits, value))
    if isinstance(value, float) and "e" in (text := repr(value)):
        return len(format(Decimal(text), "f")) - len(text)
    return 0
