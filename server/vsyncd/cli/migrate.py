"""`vsyncd migrate up | down | version`."""

from __future__ import annotations

import json

import click

from vsyncd.config import load_settings
from vsyncd.migrate import Step, current_versions, latest_versions, migrate_down, migrate_up
from vsyncd.schema import migration_root, migration_target

_set_option = click.option("--set", "set_name", metavar="NAME", help="One set of migrations; default: all of them.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, for machines.")
_STEPS = click.IntRange(min=1)


@click.group()
def migrate() -> None:
    """Migrate the configured database, as the role of DB_MIGRATE_URL where there is one."""


@migrate.command()
@click.argument("steps", metavar="[N]", type=_STEPS, required=False)
@_set_option
@_json_option
def up(*, steps: int | None, set_name: str | None, as_json: bool) -> None:
    """Apply the migrations that are missing: all, or the next N."""
    target = migration_target(load_settings(), set_name=set_name)
    _report(migrate_up(target, steps=steps, on_step=None if as_json else _tell), as_json=as_json)


@migrate.command()
@click.argument("steps", metavar="[N]", type=_STEPS, required=False)
@click.option("--all", "take_all", is_flag=True, help="Take back everything. The data goes with it.")
@_set_option
@_json_option
def down(*, steps: int | None, take_all: bool, set_name: str | None, as_json: bool) -> None:
    """Take back the last migration, or the last N. What they made goes, and the data in it."""
    if take_all and steps is not None:
        raise click.UsageError("N and --all exclude each other")
    target = migration_target(load_settings(), set_name=set_name)
    done = migrate_down(target, steps=None if take_all else steps or 1, on_step=None if as_json else _tell)
    _report(done, as_json=as_json)


@migrate.command()
@_set_option
@_json_option
def version(*, set_name: str | None, as_json: bool) -> None:
    """Print the version of each set: what the database has, and what there is."""
    settings = load_settings()
    latest = latest_versions(migration_root(settings))
    current = current_versions(settings.migrate_conninfo(), settings.db_schema)
    names = sorted({*latest, *current})
    if set_name is not None:
        if set_name not in names:
            raise click.ClickException(f"there is no set {set_name}")
        names = [set_name]
    versions = {name: {"version": current.get(name, 0), "latest": latest.get(name, 0)} for name in names}
    if as_json:
        click.echo(json.dumps(versions))
        return
    for name, at in versions.items():
        click.echo(f"{name}: version {at['version']} of {at['latest']}")


def _tell(step: Step) -> None:
    click.echo(f"{step.direction:<4} {step.migration}  {step.duration_ms / 1000:.2f} s")


def _report(done: tuple[Step, ...], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_as_json(step) for step in done]))
    elif not done:
        click.echo("nothing to do")


def _as_json(step: Step) -> dict[str, str | int]:
    return {
        "set": step.migration.set_name,
        "version": step.migration.version,
        "name": step.migration.name,
        "direction": step.direction,
        "duration_ms": step.duration_ms,
    }
