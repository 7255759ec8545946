"""What the command prints: results on stdout, everything else on stderr, so that both can be piped."""

import json
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from vsync.cli.streams import describe_system_error
from vsync.errors import CallError, InvalidArgument, Unavailable, VsyncError
from vsync.reconnect import OnWait

# Between two redraws of a progress bar.
_REFRESH_PER_SECOND = 8


def stdout() -> Console:
    """For results."""
    return Console(highlight=False)


def stderr() -> Console:
    """For progress, summaries beside data on stdout, and errors."""
    return Console(stderr=True, highlight=False)


def print_json(value: Mapping[str, object]) -> None:
    """One object on one line, for machines: valid JSON in every encoding."""
    Console(highlight=False, soft_wrap=True).out(json.dumps(value))


def print_error(error: VsyncError | OSError | UnicodeError, *, as_json: bool) -> None:
    """One error, without a traceback."""
    if as_json:
        print_json({"error": error_fields(error)})
        return
    console = stderr()
    console.print("[bold red]error:[/] ", end="")
    console.out(_sentence(error))


def _sentence(error: VsyncError | OSError | UnicodeError) -> str:
    if isinstance(error, Unavailable) and not error.reason:
        # Nobody answered: gRPC's own message, of which the end says why.
        return f"the server cannot be reached: {error.failure.message.rsplit(': ', 1)[-1]}"
    return describe_system_error(error) if isinstance(error, OSError | UnicodeError) else str(error)


def error_fields(error: VsyncError | OSError | UnicodeError) -> dict[str, object]:
    """An error for machines."""
    if not isinstance(error, CallError):
        return {"message": _sentence(error)}
    fields: dict[str, object] = {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.failure.message,
        "correlation_id": error.correlation_id,
    }
    if isinstance(error, InvalidArgument):
        fields["violations"] = [violation._asdict() for violation in error.violations]
    return fields


class RateColumn(ProgressColumn):
    """Records a second since the task began."""

    def render(self, task: Task) -> Text:
        """Draws it; a dash before the first record."""
        records = int(task.fields.get("records", 0))
        rate = f"{records / task.elapsed:,.0f}/s" if task.elapsed and records else "-"
        return Text(f"{rate:>11}", style="cyan")


class RecordsColumn(ProgressColumn):
    """How many records so far."""

    def render(self, task: Task) -> Text:
        """Draws it."""
        return Text(f"{int(task.fields.get('records', 0)):>12,} records")


class LeftColumn(ProgressColumn):
    """The time that is left at this rate."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Draws it; nothing while it is not known."""
        left = task.time_remaining
        if task.finished or left is None:
            return Text("")
        minutes, seconds = divmod(int(left), 60)
        return Text(f"{minutes}:{seconds:02d} left", style="dim")


def progress_bar(*, hidden: bool) -> Progress:
    """A bar with records, rate and time left. Hidden where nobody watches: --json, and stderr in a file."""
    console = stderr()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        RecordsColumn(),
        RateColumn(),
        LeftColumn(),
        console=console,
        refresh_per_second=_REFRESH_PER_SECOND,
        transient=True,
        disable=hidden or not console.is_terminal,
    )


def waiting_for_the_server(bar: Progress, task: TaskID) -> OnWait:
    """Shows in a bar that the server is away; the next update of its description ends that."""

    def show(_error: CallError, _delay: float) -> None:
        bar.update(task, description="[yellow]waiting for the server[/]")

    return show


class Stopwatch:
    """Time, and what it makes of a number of records."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began

    def rate(self, records: int) -> int:
        """Records a second."""
        return round(records / max(self.seconds, 1e-3))

    def sentence(self, records: int) -> str:
        """E.g. "in 2.3 s, 43,478 records/s"."""
        minutes, seconds = divmod(self.seconds, 60)
        spent = f"{int(minutes)} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"
        return f"in {spent}, {self.rate(records):,} records/s"
