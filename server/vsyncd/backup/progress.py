"""How far a piece of work has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """A step, and how much of it is done: tables of a dump, items of a restore, bytes of all else.

    `written`: bytes of the dump so far. A `total` of 0 is not known yet.
    """

    step: str
    done: int = 0
    total: int = 0
    written: int = 0


OnProgress = Callable[[Progress], None]


def nobody_watches(_progress: Progress) -> None:
    """For those who do not want to know."""
