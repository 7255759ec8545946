"""The output of `vsyncd migrate`, as text or JSON."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

from vsyncd.migrate import MigrationStatus, Script, State, Step, advice, label_of


def print_step(step: Step) -> None:
    """Prints a completed step."""
    click.echo(f"{step.direction:<4} {step.migration}  {step.duration_ms / 1000:.2f} s")


def print_wait(place: str) -> None:
    """Prints that an attempt did not get its locks."""
    click.echo(f"vsyncd: {place}: another session holds a needed lock; retrying", err=True)


def print_problems(problems: Iterable[str]) -> None:
    """Prints problems or warnings to standard error, one per line."""
    for problem in problems:
        click.echo(f"vsyncd: {problem}", err=True)


def report_steps(done: Sequence[Step], *, as_json: bool) -> None:
    """Prints all steps as JSON. `print_step` has already printed them as text."""
    if as_json:
        click.echo(json.dumps([_step(step) for step in done]))
    elif not done:
        click.echo("nothing to do")


def report_preview(scripts: Sequence[Script], *, as_json: bool) -> None:
    """Prints the scripts that would run."""
    if as_json:
        click.echo(json.dumps([_script(script) for script in scripts]))
        return
    for script in scripts:
        how = "in one transaction" if script.options.transaction else "outside a transaction"
        statements = "statement" if len(script.statements) == 1 else "statements"
        click.echo(f"would run {script.path}: {len(script.statements)} {statements}, {how}")
    if not scripts:
        click.echo("nothing to do")


def report_status(statuses: Sequence[MigrationStatus], *, schema: str, as_json: bool) -> None:
    """Prints every migration, and advice for dirty sets."""
    if as_json:
        click.echo(json.dumps([_status(each, schema) for each in statuses]))
        return
    rows = [("MIGRATION", "STATE", "APPLIED AT", "BY", "TOOK", "CHECKSUM"), *(_row(each) for each in statuses)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    for each in statuses:
        if each.state is State.DIRTY:
            click.echo(f"vsyncd: {advice(each, schema)}", err=True)


def _row(each: MigrationStatus) -> tuple[str, ...]:
    label = label_of(each.set_name, each.version, each.name)
    if each.applied is None:
        checksum = each.migration.checksum[:12] if each.migration else ""
        return label, each.state.value, "", "", "", checksum
    row = each.applied
    took = f"{row.duration_ms / 1000:.2f} s"
    return label, each.state.value, f"{row.applied_at:%Y-%m-%d %H:%M:%S%z}", row.applied_by, took, row.checksum[:12]


def _status(each: MigrationStatus, schema: str) -> dict[str, Any]:
    row = each.applied
    return {
        "set": each.set_name,
        "version": each.version,
        "name": each.name,
        "state": each.state.value,
        "applied_at": row.applied_at.isoformat() if row else None,
        "applied_by": row.applied_by if row else None,
        "duration_ms": row.duration_ms if row else None,
        "checksum": row.checksum if row else None,
        "file_checksum": each.migration.checksum if each.migration else None,
        "advice": advice(each, schema),
    }


def _step(step: Step) -> dict[str, str | int]:
    return {
        "set": step.migration.set_name,
        "version": step.migration.version,
        "name": step.migration.name,
        "direction": step.direction,
        "duration_ms": step.duration_ms,
    }


def _script(script: Script) -> dict[str, str | int | bool]:
    return {
        "set": script.migration.set_name,
        "version": script.migration.version,
        "name": script.migration.name,
        "direction": script.direction,
        "path": str(script.path),
        "statements": len(script.statements),
        "transaction": script.options.transaction,
    }
