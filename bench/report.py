"""The results of a benchmark: figures and their targets."""

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

_MAX_SHOWN = 10
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure. `target` is the limit of its value, as text. `is_met`: the value is within the limit.

    `interval` is the range of the samples without the lowest and the highest one. With ten samples it contains the
    median with a probability of 98 %.
    """

    bench: str
    name: str
    value: float
    unit: str
    target: str = ""
    is_met: bool | None = None
    samples: list[float] = field(default_factory=list)

    @property
    def interval(self) -> tuple[float, float] | None:
        """See above; None with fewer than five samples."""
        ordered = sorted(self.samples)
        return (ordered[1], ordered[-2]) if len(ordered) >= 5 else None


def ratio(
    bench: str,
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Figure:
    """Returns the median of the ratios of pairs that ran side by side; `at_least` or `at_most` is the target."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    value = statistics.median(ratios)
    return Figure(
        bench=bench,
        name=name,
        value=value,
        unit="x",
        target=f"at most {at_most}" if at_least is None else f"at least {at_least}",
        is_met=(at_least is None or value >= at_least) and (at_most is None or value <= at_most),
        samples=ratios,
    )


def rate(bench: str, name: str, samples: Sequence[float], unit: str) -> Figure:
    """Returns the median of rates. Compare it only with others of the same run."""
    return Figure(bench=bench, name=name, value=statistics.median(samples), unit=unit, samples=list(samples))


def write(figures: Sequence[Figure]) -> Path:
    """Prints the table and writes the JSON. Returns its path."""
    table = Table("bench", "figure", "value", "interval", "unit", "target", "", "samples")
    for figure in figures:
        mark = "" if figure.is_met is None else ("met" if figure.is_met else "[bold red]missed")
        samples = " ".join(f"{sample:.3g}" for sample in figure.samples)
        if len(figure.samples) > _MAX_SHOWN:
            samples = f"{min(figure.samples):.3g} to {max(figure.samples):.3g} ({len(figure.samples)})"
        interval = f"{figure.interval[0]:,.2f} to {figure.interval[1]:,.2f}" if figure.interval else ""
        table.add_row(
            figure.bench, figure.name, f"{figure.value:,.2f}", interval, figure.unit, figure.target, mark, samples
        )
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    at = datetime.now(UTC)
    path = RESULTS / f"{at:%Y%m%dT%H%M%SZ}.json"
    run = {"time": at.isoformat(), "python": platform.python_version(), "machine": platform.machine()}
    path.write_text(
        json.dumps(
            {"run": run, "figures": [asdict(figure) | {"interval": figure.interval} for figure in figures]}, indent=2
        )
        + "\n"
    )
    return path
