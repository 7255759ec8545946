"""Prints the steps and checks of a demonstration."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text
from vsync.cli.tables import Cell, print_table

# Columns from which a terminal has space for long bars.
_WIDE = 100


class Check(NamedTuple):
    """An expected and a found value that must be equal."""

    name: str
    expected: object
    found: object

    @property
    def holds(self) -> bool:
        """Whether the values are equal."""
        return self.expected == self.found


class Screen:
    """Prints the steps and results."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)

    def step(self, title: str, command: str = "") -> None:
        """Print the title of a step."""
        self.console.print(f"\n[bold]{title}[/]" + (f"  [dim]{command}[/]" if command else ""))

    def say(self, sentence: str) -> None:
        """Print the result of a step."""
        self.console.print(f"  {sentence}")

    @contextlib.contextmanager
    def bars(self) -> Iterator[Progress]:
        """Progress bars with records and rates."""
        bar = BarColumn(40 if self.console.width >= _WIDE else 10, finished_style="green")
        columns = (TextColumn("  {task.description:<10}"), bar, TextColumn("{task.completed:>9,.0f} records"))
        # Only this column is wrapped if the terminal is narrow.
        rate = TextColumn("{task.fields[note]}", table_column=Column(overflow="fold"))
        with Progress(*columns, TimeElapsedColumn(), rate, console=self.console, refresh_per_second=8) as progress:
            yield progress

    def verdict(self, checks: Sequence[Check], seconds: float) -> bool:
        """Print every check. Return whether all pass, and there is at least one."""
        self.console.print("\nSent data compared with the server's answers")
        print_table(self.console, ("check", "expected", "found"), map(_row, checks))
        wrong = sum(1 for check in checks if not check.holds)
        word = f"[bold red]{wrong} checks fail[/]" if wrong else f"[bold green]all {len(checks)} checks pass[/]"
        self.console.print(f"\n{word} [dim]({seconds:.0f} s)[/]")
        return bool(checks) and not wrong


def _row(check: Check) -> tuple[Cell, ...]:
    style = "" if check.holds else "bold red"
    mark = Text("✓ ", "green") if check.holds else Text("✗ ", style)
    name = Text.assemble(mark, (check.name, style))
    return name, Text(_shown(check.expected), style), Text(_shown(check.found), style)


def _shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return " ".join(f"{name} {number:,}" for name, number in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(f"{each:,}" for each in value)
    return str(value)
