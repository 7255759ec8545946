"""The command's output: results go to standard output, progress and errors to standard error."""

import json
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from vsync.cli.standard_streams import describe_system_error
from vsync.errors import CallError, InvalidArgumentError, UnavailableError, VsyncError
from vsync.reconnect import OnReconnect

_REFRESH_PER_SECOND = 8
_MIN_WIDTH_OF_BAR = 80


def stdout() -> Console:
    """Returns the console for results."""
    return Console(highlight=False)


def stderr() -> Console:
    """Returns the console for progress, errors, and summaries of data that goes to standard output."""
    return Console(stderr=True, highlight=False)


def print_mark(console: Console, *, good: bool) -> None:
    """Begins a summary line: a green check mark, or a yellow exclamation mark."""
    console.print("[green]✓[/] " if good else "[yellow]![/] ", end="")


def print_json(value: Mapping[str, object]) -> None:
    """Prints one object on one line. Only ASCII, so that it is valid JSON in every encoding."""
    Console(highlight=False, soft_wrap=True).out(json.dumps(value))


def print_error(error: VsyncError | OSError | UnicodeError, *, as_json: bool) -> None:
    """Prints an error without a traceback."""
    if as_json:
        print_json({"error": error_fields(error)})
        return
    console = stderr()
    console.print("[bold red]error:[/] ", end="")
    console.out(_sentence(error))


def _sentence(error: VsyncError | OSError | UnicodeError) -> str:
    if isinstance(error, UnavailableError) and not error.reason:
        # gRPC's own message, whose last part is the cause. Causes are nested in brackets.
        cause = error.message.rsplit(": ", 1)[-1]
        return f"the server cannot be reached: {cause if '[' in cause else cause.rstrip(']')}"
    return describe_system_error(error) if isinstance(error, OSError | UnicodeError) else str(error)


def error_fields(error: VsyncError | OSError | UnicodeError) -> dict[str, object]:
    """Returns an error as the fields of a JSON object."""
    if not isinstance(error, CallError):
        return {"message": _sentence(error)}
    fields: dict[str, object] = {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "correlation_id": error.correlation_id,
    }
    if isinstance(error, InvalidArgumentError):
        fields["violations"] = [violation._asdict() for violation in error.violations]
    return fields


class _RateColumn(ProgressColumn):
    """The rate of the field `new`, if a resumed task has it, or else of `records`."""

    def render(self, task: Task) -> Text:
        records = int(task.fields.get("new", task.fields.get("records", 0)))
        rate = f"{records / task.elapsed:,.0f}/s" if task.elapsed and records else "-"
        return Text(f"{rate:>9}", style="cyan")


class _RecordsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{int(task.fields.get('records', 0)):>11,} records")


class _TimeLeftColumn(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        if task.finished or left is None:
            return Text("")
        minutes, seconds = divmod(int(left), 60)
        return Text(f"{minutes}:{seconds:02d} left", style="dim")


def progress_bar(*, hidden: bool) -> Progress:
    """Returns a bar with records, rate and time left. It is hidden also if standard error is not a terminal.

    A narrow terminal shows the numbers only, which would otherwise be wrapped.
    """
    console = stderr()
    bar = [BarColumn(bar_width=None)] if console.width >= _MIN_WIDTH_OF_BAR else []
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *bar,
        TextColumn("{task.percentage:>3.0f}%"),
        _RecordsColumn(Column(no_wrap=True)),
        _RateColumn(Column(no_wrap=True)),
        _TimeLeftColumn(Column(no_wrap=True)),
        console=console,
        refresh_per_second=_REFRESH_PER_SECOND,
        transient=True,
        disable=hidden or not console.is_terminal,
    )


def show_reconnect(bar: Progress, task: TaskID) -> OnReconnect:
    """Returns a callback that shows a lost connection, until the next update of the task's description."""

    def show(_error: CallError, _delay: float) -> None:
        bar.update(task, description="[yellow]reconnecting[/]")

    return show


class Stopwatch:
    """Measures time and the rate of records."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """The time since the creation."""
        return time.monotonic() - self._began

    def rate(self, records: int) -> int:
        """Returns the records per second."""
        return round(records / max(self.seconds, 1e-3))

    def sentence(self, records: int) -> str:
        """Returns a text such as "in 2.3 s, 43,478 records/s"."""
        minutes, seconds = divmod(self.seconds, 60)
        elapsed = f"{int(minutes)} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"
        return f"in {elapsed}, {self.rate(records):,} records/s"
