"""`vsyncd migrate up | down | goto | force | adopt | version | status | create | validate`."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

from vsyncd.cli.options import for_running_server, json_option
from vsyncd.config import Settings
from vsyncd.domains.registry import load_settings, unselected_sets
from vsyncd.jobs.migrations import migration_root, migration_target
from vsyncd.migrate import (
    FEATURES,
    KEPT_TABLE,
    MAX_VERSION,
    Command,
    Down,
    Goto,
    MigrationStatus,
    MigrationTarget,
    Script,
    State,
    Step,
    TableScaffold,
    Up,
    adopt_version,
    advice,
    create_migration,
    current_versions,
    fetch_status,
    find_invalid_objects,
    find_problems,
    force_version,
    label_of,
    preview,
    run_migrations,
)

_STEPS = click.IntRange(min=1)
_VERSION = click.IntRange(min=0, max=MAX_VERSION)

_set_option = click.option("--set", "set_name", metavar="NAME", help="The migration set; default: all sets.")
_one_set_option = click.option(
    "--set", "set_name", metavar="NAME", default="vsync", show_default=True, help="The migration set."
)
_dry_option = click.option("--dry-run", is_flag=True, help="Print what would run, and change nothing.")
_wait_option = click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="Maximum wait for another migrating process, and for the locks of each migration.",
)


@click.group()
def migrate() -> None:
    """Migrate the configured database.

    Connects as the role of DB_MIGRATE_URL, or else of DATABASE_URL.
    """


@migrate.command()
@click.argument("steps", metavar="[N]", type=_STEPS, required=False)
@_set_option
@_dry_option
@_wait_option
@json_option
@for_running_server
def up(
    settings: Settings, *, steps: int | None, set_name: str | None, dry_run: bool, lock_timeout: float, as_json: bool
) -> None:
    """Apply all pending migrations, or the next N."""
    target = _target(settings, set_name, lock_timeout)
    _execute(target, Up(steps), dry_run=dry_run, as_json=as_json)


@migrate.command()
@click.argument("steps", metavar="[N]", type=_STEPS, required=False)
@click.option("--all", "revert_all", is_flag=True, help="Revert all migrations. This deletes all data.")
@_set_option
@_dry_option
@_wait_option
@json_option
@for_running_server
def down(
    settings: Settings,
    *,
    steps: int | None,
    revert_all: bool,
    set_name: str | None,
    dry_run: bool,
    lock_timeout: float,
    as_json: bool,
) -> None:
    """Revert the last migration, or the last N. This deletes the data of the objects that they created."""
    if revert_all and steps is not None:
        raise click.UsageError("N and --all are mutually exclusive")
    target = _target(settings, set_name, lock_timeout)
    _execute(target, Down(None if revert_all else steps or 1), dry_run=dry_run, as_json=as_json)


@migrate.command()
@click.argument("version", metavar="V", type=_VERSION)
@_one_set_option
@_dry_option
@_wait_option
@json_option
@for_running_server
def goto(settings: Settings, *, version: int, set_name: str, dry_run: bool, lock_timeout: float, as_json: bool) -> None:
    """Migrate one set up or down to version V. Version 0 reverts the whole set and deletes its data."""
    target = _target(settings, set_name, lock_timeout)
    _execute(target, Goto(version), dry_run=dry_run, as_json=as_json)


@migrate.command()
@click.argument("version", metavar="V", type=_VERSION)
@_one_set_option
@_wait_option
@for_running_server
def force(settings: Settings, *, version: int, set_name: str, lock_timeout: float) -> None:
    """Record version V for one set and clear its dirty state, without running a migration."""
    force_version(_target(settings, set_name, lock_timeout), version)
    click.echo(f"{set_name}: recorded version {version}; no migration was run")


@migrate.command()
@_one_set_option
@_wait_option
@for_running_server
def adopt(settings: Settings, *, set_name: str, lock_timeout: float) -> None:
    """Adopt the version of one set from golang-migrate's table in DB_SCHEMA, without running a migration.

    Keeps that table under another name. Refuses a dirty version.
    """
    target = _target(settings, set_name, lock_timeout)
    version = adopt_version(target)
    click.echo(f"{set_name}: adopted version {version} from golang-migrate; no migration was run")
    click.echo(f"golang-migrate's table is now {target.schema}.{KEPT_TABLE}")


@migrate.command()
@_set_option
@json_option
@for_running_server
def version(settings: Settings, *, set_name: str | None, as_json: bool) -> None:
    """Print the applied and the latest version of each set."""
    target = _target(settings)
    latest = {each.set_name: each.version for each in target.files()}
    applied = current_versions(target.conninfo, target.schema)
    current = {name: version for name, version in applied.items() if target.includes(name)}
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
@json_option
@for_running_server
def status(settings: Settings, *, set_name: str | None, as_json: bool) -> None:
    """Print the state of every migration, and when, by whom and with which checksum it was applied.

    Prints advice about dirty sets, invalid indexes and partitions with a pending detach to standard error.
    """
    target = _target(settings, set_name)
    _report_status(fetch_status(target), schema=target.schema, as_json=as_json)
    _print_problems(find_invalid_objects(target.conninfo))


@migrate.command()
@click.argument("name")
@_one_set_option
@click.option("--timestamp", is_flag=True, help="Use the current time (UTC, in seconds) as the version.")
@click.option("--table", metavar="NAME", help="Write the SQL of a new table.")
@click.option(
    "--with", "features", metavar="LIST", default="", help=f"Its features, comma separated: {', '.join(FEATURES)}."
)
def create(*, name: str, set_name: str, timestamp: bool, table: str | None, features: str) -> None:
    """Create the up and down files of a new migration, with the next version."""
    chosen = [feature.strip() for feature in features.split(",") if feature.strip()]
    if unknown := [feature for feature in chosen if feature not in FEATURES]:
        raise click.UsageError(f"--with takes {', '.join(FEATURES)}, and not {', '.join(unknown)}")
    if chosen and table is None:
        raise click.UsageError("--with needs --table")
    scaffold = None if table is None else TableScaffold(table=table, features=chosen)
    root = migration_root(load_settings())
    for path in create_migration(name, set_name=set_name, root=root, timestamp=timestamp, scaffold=scaffold):
        click.echo(path)


@migrate.command()
@_set_option
@click.option("--files-only", is_flag=True, help="Check only the files, without a database.")
@json_option
@for_running_server
def validate(settings: Settings, *, set_name: str | None, files_only: bool, as_json: bool) -> int:
    """Check for gaps, duplicates, changed or missing files, dirty sets and invalid indexes.

    Exits with 1 if there is a problem. A missing down file is only a warning on standard error.
    """
    target = _target(settings, set_name)
    problems, warnings = find_problems(target, with_database=not files_only)
    _print_problems(f"warning: {warning}" for warning in warnings)
    if as_json:
        click.echo(json.dumps(problems))
    else:
        _print_problems(problems)
        if not problems:
            click.echo("no problems found")
    return 1 if problems else 0


def _target(settings: Settings, set_name: str | None = None, lock_timeout: float | None = None) -> MigrationTarget:
    target = migration_target(settings, set_name=set_name, without=unselected_sets(settings.domains))
    return target if lock_timeout is None else dataclasses.replace(target, lock_timeout=lock_timeout)


def _execute(target: MigrationTarget, command: Command, *, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        _report_preview(preview(target, command), as_json=as_json)
        return
    hooks: dict[str, Any] = {} if as_json else {"on_step": _print_step, "on_wait": _print_wait}
    _report_steps(run_migrations(target, command, **hooks), as_json=as_json)


def _print_step(step: Step) -> None:
    click.echo(f"{step.direction:<4} {step.migration}  {step.duration_ms / 1000:.2f} s")


def _print_wait(place: str) -> None:
    click.echo(f"vsyncd: {place}: another session holds a needed lock; retrying", err=True)


def _print_problems(problems: Iterable[str]) -> None:
    for problem in problems:
        click.echo(f"vsyncd: {problem}", err=True)


def _report_steps(done: Sequence[Step], *, as_json: bool) -> None:
    """Prints all steps as JSON. `_print_step` has already printed them as text."""
    if as_json:
        click.echo(json.dumps([_step(step) for step in done]))
    elif not done:
        click.echo("nothing to do")


def _report_preview(scripts: Sequence[Script], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_script(script) for script in scripts]))
        return
    for script in scripts:
        how = "in one transaction" if script.options.transaction else "outside a transaction"
        statements = "statement" if len(script.statements) == 1 else "statements"
        click.echo(f"would run {script.path}: {len(script.statements)} {statements}, {how}")
    if not scripts:
        click.echo("nothing to do")


def _report_status(statuses: Sequence[MigrationStatus], *, schema: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_status(each, schema) for each in statuses]))
        return
    # Imported here because rich is slow, and only this command needs it.
    from vsync.cli.console import stdout  # noqa: PLC0415 - see above
    from vsync.cli.tables import print_table  # noqa: PLC0415 - see above

    columns = ("migration", "state", "applied at", "by", "took", "checksum")
    print_table(stdout(), columns, map(_row, statuses))
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
