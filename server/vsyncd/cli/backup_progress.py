"""The progress line of `vsyncd backup`, and stopping by signals."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final

from vsyncd.backup.tasks import OnProgress, Stop, ignore_progress
from vsyncd.backup.tasks import Progress as Step

_DESCRIPTIONS: Final = {
    "dump": "dumping",
    "checksums": "computing checksums",
    "store": "storing",
    "verify": "verifying",
    "fetch": "fetching",
    "restore": "restoring",
    "compare": "comparing",
}


@contextlib.contextmanager
def progress_shown(*, quiet: bool) -> Iterator[OnProgress]:
    """Shows a progress line on standard error, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield ignore_progress
        return
    # Imported late: rich takes long to load.
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("connecting", total=None)
        previous = ""

        def on_progress(step: Step) -> None:
            nonlocal previous
            total = step.total or None
            # A new step is drawn at once: it may end before the next redraw.
            shown.update(
                task,
                description=_description(step),
                completed=step.done if total else 0,
                total=total,
                refresh=step.step != previous,
            )
            previous = step.step

        yield on_progress


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """SIGTERM and Ctrl-C request a stop, so that unfinished work is removed before the exit."""
    stop = Stop()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        stop.request()

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _description(step: Step) -> str:
    description = _DESCRIPTIONS[step.step]
    if step.step == "dump":
        return f"{description}, table {step.done}, {step.written / 2**20:,.0f} MiB"
    if step.step == "restore":
        return f"{description}, table {step.done} of {step.total}"
    return description
