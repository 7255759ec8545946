"""What `vsyncd backup` shows while it works, and how it is stopped."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final

from vsyncd.backup.progress import OnProgress, nobody_watches
from vsyncd.backup.progress import Progress as Step
from vsyncd.backup.subprocesses import Stop

_WORDS: Final = {
    "dump": "dumping",
    "checksums": "adding up",
    "keep": "keeping",
    "verify": "reading",
    "fetch": "fetching",
    "restore": "restoring",
    "compare": "comparing",
}


@contextlib.contextmanager
def progress_shown(*, quiet: bool) -> Iterator[OnProgress]:
    """A line on standard error that says how far it is, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield nobody_watches
        return
    # Only now: it takes a while to load, and machines need none of it.
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("connecting", total=None)
        told = ""

        def on_progress(step: Step) -> None:
            nonlocal told
            total = step.total or None
            # Each step is shown, also one that is over before the line would be drawn again.
            shown.update(
                task,
                description=_in_words(step),
                completed=step.done if total else 0,
                total=total,
                refresh=step.step != told,
            )
            told = step.step

        yield on_progress


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Asked to stop by SIGTERM or Ctrl-C: what was begun is cleared away first."""
    stop = Stop()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.ask()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_words(step: Step) -> str:
    words = _WORDS.get(step.step, step.step)
    if step.step == "dump":
        return f"{words}, table {step.done}, {step.written / 2**20:,.0f} MiB"
    if step.step == "restore":
        return f"{words}, table {step.done} of {step.total}"
    return words
