"""Figures of each fault: the time to the first successful call after it, and the errors that callers got.

Tests record them with the fixture `report`. At the end of a run they are printed and, with `--fault-report PATH`,
written as JSON. They are part of pytest's reports, so that they also arrive from xdist's workers.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

# vsyncd promises 5 s on a machine of its own, which the report shows. On a busy one the specification's minute counts.
MAX_RECOVERY_S: Final = 60.0
_PREFIX: Final = "fault:"
_SECONDS: Final = "seconds_to_first_good_answer"


class FaultReport:
    """The figures of one test. `record` is pytest's record_property."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def recovered(self, seconds: float, errors: Mapping[str, int] | None = None) -> None:
        """Records the seconds from the end of the fault to the first successful call, and the errors until then."""
        self.figure(_SECONDS, round(seconds, 3))
        if errors is not None:
            self.figure("errors", dict(errors))
        assert seconds < MAX_RECOVERY_S, f"the first successful call came after {seconds:.2f} s"

    def figure(self, name: str, value: object) -> None:
        """Records another figure."""
        self._record(_PREFIX + name, value)


def faults(reports: list[pytest.TestReport]) -> list[dict[str, Any]]:
    """Returns the figures of the tests of a run."""
    return [{"test": test, **figures} for test, figures in _recorded(reports)]


def lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """Yields the figures as lines of text."""
    for fault in found:
        figures = {name: value for name, value in fault.items() if name not in {"test", _SECONDS}}
        seconds = f"{fault[_SECONDS]:.2f} s" if _SECONDS in fault else ""
        yield f"{seconds:>8}  {fault['test'].rpartition('/')[2]}"
        for name, value in figures.items():
            yield f"{'':10}{name}: {value}"


def write(found: list[dict[str, Any]], path: Path) -> None:
    """Writes the figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"finished_at": datetime.now(UTC).isoformat(timespec="seconds"), "faults": found}
    path.write_text(json.dumps(report, indent=2) + "\n")


def _recorded(reports: list[pytest.TestReport]) -> Iterator[tuple[str, dict[str, object]]]:
    for report in reports:
        recorded = {
            name.removeprefix(_PREFIX): value for name, value in report.user_properties if name.startswith(_PREFIX)
        }
        if recorded:
            yield report.nodeid, recorded
