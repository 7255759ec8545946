"""Settings in words: for errors, for `vsyncd check-config` and for the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from vsyncd.config.types import Takes

# What stands in the place of a secret.
MASK = "********"


class SettingDescription(NamedTuple):
    """One setting, in words."""

    name: str
    takes: str
    default: str
    meaning: str


def describe(fields: Mapping[str, FieldInfo]) -> tuple[SettingDescription, ...]:
    """Every setting in words, in order."""
    return tuple(
        SettingDescription(name.upper(), what_it_takes(field), shown(field.default), (field.description or "").strip())
        for name, field in fields.items()
    )


def what_it_takes(field: FieldInfo) -> str:
    """The words that stand in the type of the setting."""
    # `X | None` keeps what belongs to X inside.
    inner = (mark for arm in get_args(field.annotation) for mark in getattr(arm, "__metadata__", ()))
    return next(mark.text for mark in (*field.metadata, *inner) if isinstance(mark, Takes))


def complaint(name: str, field: FieldInfo, reason: str = "") -> str:
    """The line that an operator reads when the value is wrong. `reason` must not repeat the value."""
    return f"{name.upper()}: takes {what_it_takes(field)}" + (f" ({reason})" if reason else "")


def shown(value: object) -> str:
    """A value as one writes it into an environment variable, a secret masked."""
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return "" if value is None else str(value)
