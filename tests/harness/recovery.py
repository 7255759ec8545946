"""What each fault came to: the time to the first good answer after it, and what callers were told meanwhile.

Tests note it with the fixture `report`; at the end of a run it is printed, and with `--fault-report PATH` written as
JSON. It travels with pytest's reports, so that it arrives from the workers too.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

# Seconds. The specification allows a minute; this is what vsyncd promises.
RECOVERY: Final = 5.0
_PREFIX: Final = "fault:"
_SECONDS: Final = "seconds_to_first_good_answer"


class FaultReport:
    """Of one test. `record` is pytest's record_property."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def recovered(self, seconds: float, told: Mapping[str, int] | None = None) -> None:
        """The first good answer came so long after the fault was over; `told` is what callers were told until then."""
        self.figure(_SECONDS, round(seconds, 3))
        if told is not None:
            self.figure("told", dict(told))
        assert seconds < RECOVERY, f"the first good answer came after {seconds:.2f} s"

    def figure(self, name: str, value: object) -> None:
        """Something else that was measured."""
        self._record(_PREFIX + name, value)


def faults(reports: list[pytest.TestReport]) -> list[dict[str, Any]]:
    """What the tests of a run noted."""
    return [{"test": test, **figures} for test, figures in _noted(reports)]


def lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """The same for people."""
    for fault in found:
        figures = {name: value for name, value in fault.items() if name not in {"test", _SECONDS}}
        seconds = f"{fault[_SECONDS]:.2f} s" if _SECONDS in fault else ""
        yield f"{seconds:>8}  {fault['test'].rpartition('/')[2]}"
        for name, value in figures.items():
            yield f"{'':10}{name}: {value}"


def write(found: list[dict[str, Any]], path: Path) -> None:
    """The same for machines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"finished_at": datetime.now(UTC).isoformat(timespec="seconds"), "faults": found}
    path.write_text(json.dumps(report, indent=2) + "\n")


def _noted(reports: list[pytest.TestReport]) -> Iterator[tuple[str, dict[str, object]]]:
    for report in reports:
        noted = {
            name.removeprefix(_PREFIX): value for name, value in report.user_properties if name.startswith(_PREFIX)
        }
        if noted:
            yield report.nodeid, noted
