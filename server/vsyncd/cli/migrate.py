"""`vsyncd migrate up | down | goto | force | adopt | version | status | create | validate`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import click

from vsyncd.cli.embedded import for_running_server
from vsyncd.cli.migrate_output import report_preview, report_status, report_steps, tell, tell_problems, tell_wait
from vsyncd.config import Settings, load_settings
from vsyncd.domains.registry import unselected_sets
from vsyncd.jobs.migrations import migration_root, migration_target
from vsyncd.migrate import (
    KEPT_TABLE,
    MAX_VERSION,
    Command,
    Down,
    Goto,
    MigrationTarget,
    State,
    Step,
    Up,
    adopt_version,
    advice,
    create_migration,
    current_versions,
    fetch_status,
    find_invalid_objects,
    find_problems,
    force_version,
    migrate_down,
    migrate_to,
    migrate_up,
    preview,
)

_STEPS = click.IntRange(min=1)
_VERSION = click.IntRange(min=0, max=MAX_VERSION)

_set_option = click.option("--set", "set_name", metavar="NAME", help="One set of migrations; default: all of them.")
_one_set_option = click.option("--set", "set_name", metavar="NAME", default="vsync", show_default=True, help="The set.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, for machines.")
_dry_option = click.option("--dry-run", is_flag=True, help="Say what would run, and change nothing.")
_wait_option = click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another process that migrates, and for the locks that each migration needs.",
)


@click.group()
def migrate() -> None:
    """Migrate the configured database, as the role of DB_MIGRATE_URL where there is one."""


@migrate.command()
@click.argument("steps", metavar="[N]", type=_STEPS, required=False)
@_set_option
@_dry_option
@_wait_option
@_json_option
@for_running_server
def up(
    settings: Settings, *, steps: int | None, set_name: str | None, dry_run: bool, lock_timeout: float, as_json: bool
) -> None:
    """Apply the migrations that are missing: all, or the next N."""
    target = _target(settings, set_name, lock_timeout)
    _execute(
        target, Up(steps), lambda **hooks: migrate_up(target, steps=steps, **hooks), dry_run=dry_run, as_json=as_json
    )


@migrate.command()
@click.argument("steps", metavar="[N]", type=_STEPS, required=False)
@click.option("--all", "take_all", is_flag=True, help="Take back everything. The data goes with it.")
@_set_option
@_dry_option
@_wait_option
@_json_option
@for_running_server
def down(
    settings: Settings,
    *,
    steps: int | None,
    take_all: bool,
    set_name: str | None,
    dry_run: bool,
    lock_timeout: float,
    as_json: bool,
) -> None:
    """Take back the last migration, or the last N. What they made goes, and the data in it."""
    if take_all and steps is not None:
        raise click.UsageError("N and --all exclude each other")
    target = _target(settings, set_name, lock_timeout)
    number = None if take_all else steps or 1
    _execute(
        target,
        Down(number),
        lambda **hooks: migrate_down(target, steps=number, **hooks),
        dry_run=dry_run,
        as_json=as_json,
    )


@migrate.command()
@click.argument("version", metavar="V", type=_VERSION)
@_one_set_option
@_dry_option
@_wait_option
@_json_option
@for_running_server
def goto(settings: Settings, *, version: int, set_name: str, dry_run: bool, lock_timeout: float, as_json: bool) -> None:
    """Bring one set to version V, up or down; 0 takes all of it back, and the data in it."""
    target = _target(settings, set_name, lock_timeout)
    _execute(
        target,
        Goto(version),
        lambda **hooks: migrate_to(target, version, **hooks),
        dry_run=dry_run,
        as_json=as_json,
    )


@migrate.command()
@click.argument("version", metavar="V", type=_VERSION)
@_one_set_option
@_wait_option
@for_running_server
def force(settings: Settings, *, version: int, set_name: str, lock_timeout: float) -> None:
    """Write into the record that one set is at version V, and not dirty. Runs nothing."""
    force_version(_target(settings, set_name, lock_timeout), version)
    click.echo(f"{set_name}: the record says version {version} now; nothing was run")


@migrate.command()
@_one_set_option
@_wait_option
@for_running_server
def adopt(settings: Settings, *, set_name: str, lock_timeout: float) -> None:
    """Take the version of one set over from golang-migrate's table in DB_SCHEMA. Runs no file.

    The table is kept under another name. A dirty version is refused.
    """
    target = _target(settings, set_name, lock_timeout)
    version = adopt_version(target)
    click.echo(f"{set_name}: took version {version} over from golang-migrate; nothing was run")
    click.echo(f"golang-migrate's table is now {target.schema}.{KEPT_TABLE}")


@migrate.command()
@_set_option
@_json_option
@for_running_server
def version(settings: Settings, *, set_name: str | None, as_json: bool) -> None:
    """Print the version of each set: what the database has, and what there is."""
    target = _target(settings)
    latest = {each.set_name: each.version for each in target.files()}
    current = current_versions(target.conninfo, target.schema)
    dirty = {each.set_name: each for each in fetch_status(target) if each.state is State.DIRTY}
    names = sorted({*latest, *current, *dirty})
    if set_name is not None:
        if set_name not in names:
            raise click.ClickException(f"there is no set {set_name}; there is {', '.join(names)}")
        names = [set_name]
    versions = {
        name: {"version": current.get(name, 0), "latest": latest.get(name, 0), "dirty": name in dirty} for name in names
    }
    if as_json:
        click.echo(json.dumps(versions))
        return
    for name, at in versions.items():
        click.echo(f"{name}: version {at['version']} of {at['latest']}{', dirty' if at['dirty'] else ''}")
        if name in dirty:
            click.echo(f"vsyncd: {advice(dirty[name], target.schema)}", err=True)


@migrate.command()
@_set_option
@_json_option
@for_running_server
def status(settings: Settings, *, set_name: str | None, as_json: bool) -> None:
    """Print every migration: applied when, by whom, in what time, with which content; or pending.

    Standard error has the advice about dirty sets, invalid indexes and partitions that are pending detach.
    """
    target = _target(settings, set_name)
    report_status(fetch_status(target), schema=target.schema, as_json=as_json)
    tell_problems(find_invalid_objects(target.conninfo))


@migrate.command()
@click.argument("name")
@_one_set_option
@click.option("--timestamp", is_flag=True, help="Use the present second in UTC as the version.")
def create(*, name: str, set_name: str, timestamp: bool) -> None:
    """Create the up and the down file of a new migration, under the next number."""
    root = migration_root(load_settings())
    for path in create_migration(name, set_name=set_name, root=root, timestamp=timestamp):
        click.echo(path)


@migrate.command()
@_set_option
@click.option("--files-only", is_flag=True, help="Look at the files alone, without a database.")
@_json_option
@for_running_server
def validate(settings: Settings, *, set_name: str | None, files_only: bool, as_json: bool) -> int:
    """Look for what is wrong: gaps, duplicates, changed or missing files, dirty sets, invalid indexes.

    Exit code 1 if there is a problem. A missing down file is a warning: on standard error, with exit code 0.
    """
    target = _target(settings, set_name)
    problems, warnings = find_problems(target, with_database=not files_only)
    tell_problems(f"warning: {warning}" for warning in warnings)
    if as_json:
        click.echo(json.dumps(problems))
    else:
        tell_problems(problems)
        if not problems:
            click.echo("nothing is wrong")
    return 1 if problems else 0


def _target(settings: Settings, set_name: str | None = None, lock_timeout: float | None = None) -> MigrationTarget:
    target = migration_target(settings, set_name=set_name, without=unselected_sets(settings.domains))
    return target if lock_timeout is None else dataclasses.replace(target, lock_timeout=lock_timeout)


def _execute(
    target: MigrationTarget, command: Command, run: Callable[..., tuple[Step, ...]], *, dry_run: bool, as_json: bool
) -> None:
    if dry_run:
        report_preview(preview(target, command), as_json=as_json)
        return
    hooks: dict[str, Any] = {} if as_json else {"on_step": tell, "on_wait": tell_wait}
    report_steps(run(**hooks), as_json=as_json)
