"""Tables on a terminal. Values are never truncated, so that they can be copied."""

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

Cell = str | int | Text

_GAP = "  "
STYLES = {
    **dict.fromkeys(("SYNCED", "COMPLETED", "ADDED", "OK", "HEALTHY"), "green"),
    **dict.fromkeys(("PENDING", "STARTING", "RUNNING", "DEGRADED"), "yellow"),
    **dict.fromkeys(("FAILED", "REMOVED", "NOK", "UNHEALTHY"), "red"),
}
"""The colours of states and results."""


def print_table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Prints one line per row. Numbers have thousands separators and are aligned to the right.

    On a terminal that is too narrow, prints each row as a block of lines instead, one per column.
    """
    rows = list(rows)
    texts = [[_text(cell) for cell in row] for row in rows]
    numeric = [all(isinstance(row[place], int) for row in rows) for place in range(len(columns))]
    widths = [
        max(cell_len(each) for each in (name, *(row[place].plain for row in texts)))
        for place, name in enumerate(columns)
    ]
    if console.is_terminal and sum(widths) + len(_GAP) * (len(widths) - 1) > console.width:
        _print_blocks(console, columns, texts)
        return
    _print_line(console, [Text(name, "dim") for name in columns], widths, numeric)
    for row in texts:
        _print_line(console, row, widths, numeric)


def print_fields(console: Console, fields: Iterable[tuple[str, Cell]]) -> None:
    """Prints one line per field."""
    lines = [(name, _text(value)) for name, value in fields]
    width = max((cell_len(name) for name, _ in lines), default=0)
    for name, value in lines:
        # Never wrapped by rich, which would insert line ends into the value.
        console.print(Text.assemble((f"{name:<{width}}{_GAP}", "dim"), value), soft_wrap=True)


def _print_blocks(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    for number, row in enumerate(rows):
        if number:
            console.print()
        print_fields(console, ((name, cell) for name, cell in zip(columns, row, strict=True) if cell.plain))


def _print_line(console: Console, cells: Sequence[Text], widths: Sequence[int], numeric: Sequence[bool]) -> None:
    line = Text()
    for cell, width, is_number in zip(cells, widths, numeric, strict=True):
        padding = " " * (width - cell.cell_len)
        line.append(_GAP if line else "")
        line.append_text(Text.assemble(padding, cell) if is_number else Text.assemble(cell, padding))
    line.rstrip()
    console.print(line, soft_wrap=True)


def _text(cell: Cell) -> Text:
    if isinstance(cell, Text):
        return cell
    if isinstance(cell, int):
        return Text(f"{cell:,}")
    return Text(cell, STYLES.get(cell, ""))
