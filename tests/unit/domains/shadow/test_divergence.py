"""Compares the differing paths of two results with a model that flattens both."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.domains.shadow.divergence import canonical_text, differing_paths, normal_form
from vsyncd.domains.shadow.records import MAX_PATH_CHARS

TOLERANCE = 1e-6
NAMES = st.sampled_from(["a", "b", "limit", "a.b", "ü", ""])
SCALARS = st.sampled_from([None, True, False, 0, 1, 1.0000001, 1.1, -5, 2**53, 1e23, 1e-7, "", "x", "1"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=12
)
RESULTS = st.dictionaries(NAMES, VALUES, max_size=4)
Step = str | int


def paths_of(primary: Any, shadow: Any) -> list[str]:
    return list(differing_paths(primary, shadow, tolerance=TOLERANCE))


def flat(value: Any, at: tuple[Step, ...] = ()) -> dict[tuple[Step, ...], Any]:
    """Returns every value by its place. Objects and lists are represented by their types."""
    found: dict[tuple[Step, ...], Any] = {at: value}
    if isinstance(value, dict | list):
        found = {at: type(value)}
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found |= flat(inner, (*at, step))
    return found


def are_equal(one: Any, other: Any) -> bool:
    numbers = [type(value) in {int, float} for value in (one, other)]
    if all(numbers):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(one) is type(other) and bool(one == other)


def text_of(place: tuple[Step, ...]) -> str:
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isascii() and step.isidentifier():
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step, ensure_ascii=False)}]"
    return text


def model(primary: Any, shadow: Any) -> set[str]:
    """Returns the paths of the outermost places that differ."""
    one, other = flat(primary), flat(shadow)
    nothing = object()
    differing = {place for place in one | other if not are_equal(one.get(place, nothing), other.get(place, nothing))}
    return {
        text_of(place) for place in differing if not any(place[:length] in differing for length in range(len(place)))
    }


@given(RESULTS, RESULTS)
def test_the_paths_are_those_of_the_model(primary: dict[str, Any], shadow: dict[str, Any]) -> None:
    found = paths_of(primary, shadow)
    assert len(found) == len(set(found))
    assert set(found) == model(primary, shadow)
    assert found == paths_of(shadow, primary)
    assert paths_of(primary, primary) == []


@given(RESULTS)
def test_a_result_has_one_canonical_text(result: dict[str, Any]) -> None:
    backwards = dict(reversed(result.items()))
    assert canonical_text(result) == canonical_text(backwards)
    assert canonical_text(normal_form(json.loads(canonical_text(result)))) == canonical_text(normal_form(result))


@pytest.mark.parametrize(
    ("primary", "shadow", "expected"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b"]),
        ({"a": [1, 2, 3]}, {"a": [1, 3]}, ["a[1]", "a[2]"]),
        ({"a": [1]}, {"a": {"0": 1}}, ["a"]),
        ({"a": True}, {"a": 1}, ["a"]),
        ({"a": None}, {}, ["a"]),
        ({"x.y": {"ü": 1}}, {"x.y": {"ü": 2}}, ['["x.y"]["ü"]']),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ["a", "b"]),
        ({"a": 1_000_000}, {"a": 1_000_000.5}, []),
        ({"a": 10}, {"a": 10.1}, ["a"]),
    ],
)
def test_a_difference_has_the_path_of_its_value(
    primary: dict[str, Any], shadow: dict[str, Any], expected: list[str]
) -> None:
    assert paths_of(primary, shadow) == expected


def test_a_tolerance_of_zero_accepts_identical_numbers_only() -> None:
    assert list(differing_paths({"a": 0.1 + 0.2}, {"a": 0.3}, tolerance=0)) == ["a"]
    assert list(differing_paths({"a": 1}, {"a": 1.0}, tolerance=0)) == []


def test_a_long_path_is_cut_off() -> None:
    (path,) = paths_of({"n" * 5_000: 1}, {})
    assert len(path) == MAX_PATH_CHARS
    assert path.endswith("…")
