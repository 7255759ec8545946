"""`vsyncd backup create | list | verify | restore | cleanup | schedule`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import click

from vsyncd.backup.manager import Backups
from vsyncd.backup.manifest import ContentSummary
from vsyncd.backup.records import Backup, Skipped
from vsyncd.cli.backup_progress import progress_shown, stop_on_signals
from vsyncd.cli.embedded import for_running_server
from vsyncd.config import Settings, load_settings
from vsyncd.config.schedules import parse_schedule, times
from vsyncd.jobs.backups import backups_of

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")


@click.group()
def backup() -> None:
    """Back up the configured database.

    Connects with BACKUP_URL, else DB_MIGRATE_URL, else DATABASE_URL. Backups are kept in the folder BACKUP_DIR, or in
    the S3-compatible store BACKUP_S3_URL.
    """


@backup.command()
@_json_option
@_quiet_option
@for_running_server
def create(settings: Settings, *, as_json: bool, quiet: bool) -> None:
    """Create a backup: a dump and a manifest of the same snapshot."""
    with stop_on_signals() as stop, progress_shown(quiet=quiet) as on_progress:
        made = backups_of(settings).create(on_progress=on_progress, stop=stop)
    if as_json:
        click.echo(json.dumps(_as_json(made)))
    else:
        seconds = made.manifest.duration_seconds if made.manifest else 0
        click.echo(f"created {made.name}: {_bytes(made.size)} in {seconds:.1f} s")


@backup.command("list")
@_json_option
def list_(*, as_json: bool) -> None:
    """List the backups, oldest first.

    States: unverified; verified (all files read); restored (restored and compared too); damaged (files missing or
    changed); unrestorable (pg_restore failed on it).
    """
    settings = load_settings()
    found = backups_of(settings).list_all()
    for each in found:
        if not each.complete:
            click.echo(f"vsyncd: {each.name} is not listed: it has no manifest", err=True)
    backups = [each for each in found if each.complete]
    if as_json:
        click.echo(json.dumps([_as_json(each) for each in backups]))
    elif not backups:
        click.echo(f"no backups in {settings.backup_s3_url or settings.backup_dir}")
    else:
        _print_table(backups)


def _print_table(backups: Sequence[Backup]) -> None:
    # Imported late: rich takes long to load, and no other command needs it.
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.table import Table  # noqa: PLC0415 - see above

    table = Table("name", "created (UTC)", "size", "CIDs", "PostgreSQL", "migrations", "state", box=None)
    for each in backups:
        manifest = each.manifest
        cids = sum(cid_set.count for cid_set in manifest.content.cid_sets) if manifest else 0
        migrations = manifest.content.migrations if manifest else {}
        table.add_row(
            each.name,
            f"{each.created_at:%Y-%m-%d %H:%M:%S}",
            _bytes(each.size),
            f"{cids:,}",
            manifest.origin.server_version.partition(" ")[0] if manifest else "",
            " ".join(f"{name} {version}" for name, version in migrations.items()),
            each.state,
        )
    Console(width=None if Console().is_terminal else 160).print(table)
    now = datetime.now(UTC)
    for each in backups:
        for problem in each.findings:
            click.echo(f"{each.name}: {problem}")
        if each.is_postdated(now):
            click.echo(f"{each.name}: dated in the future, ignored until then")


@backup.command()
@click.argument("name")
@click.option("--restore", is_flag=True, help="Also restore it into a temporary database and compare the content.")
@_json_option
@_quiet_option
@for_running_server
def verify(settings: Settings, *, name: str, restore: bool, as_json: bool, quiet: bool) -> None:
    """Verify the files of the backup NAME; `latest` is the newest good one.

    Exits with 1 if the backup is damaged.
    """
    with stop_on_signals() as stop, progress_shown(quiet=quiet) as on_progress:
        backups = backups_of(settings)
        found, skipped = _select(backups, name)
        verification = backups.verify(found, restore=restore, on_progress=on_progress, stop=stop)
    if as_json:
        result = {"name": found, "verified_at": verification.verified_at.isoformat(), "restored": verification.restored}
        click.echo(json.dumps(result | {"skipped": _skipped_as_json(skipped)}))
    else:
        click.echo(f"{found}: {'restored, and the content is equal' if restore else 'all files are intact'}")


@backup.command("restore")
@click.argument("name")
@click.option("--to", "target", metavar="DATABASE", help="The target database; default: the configured one.")
@click.option("--force", is_flag=True, help="Replace a target that is not empty. It is kept under another name.")
@click.option("--no-roles", is_flag=True, help="Restore no owners and privileges: the restoring role owns everything.")
@_json_option
@_quiet_option
@for_running_server
def restore_(
    settings: Settings, *, name: str, target: str | None, force: bool, no_roles: bool, as_json: bool, quiet: bool
) -> None:
    """Restore the backup NAME; `latest` is the newest good one.

    Restores into a new database, compares its content with the manifest, and then renames it to the target.
    """
    with stop_on_signals() as stop, progress_shown(quiet=quiet) as on_progress:
        backups = backups_of(settings)
        found, skipped = _select(backups, name)
        done = backups.restore(
            found, target=target, replace_target=force, with_roles=not no_roles, on_progress=on_progress, stop=stop
        )
    if as_json:
        result = {"database": done.database, "replaced": done.replaced, "refused": list(done.refused)}
        click.echo(json.dumps({"name": found, **result, "skipped": _skipped_as_json(skipped)}))
        return
    click.echo(f"restored {found} into {done.database}")
    for statement in done.refused:
        click.echo(f"run as a privileged role: {statement}")
    if done.replaced is not None:
        click.echo(f'the previous database is kept as {done.replaced}; to remove it: DROP DATABASE "{done.replaced}"')


@backup.command()
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@_json_option
def cleanup(*, dry_run: bool, as_json: bool) -> None:
    """Remove the backups past RETENTION_DAYS and BACKUP_RETENTION_COUNT.

    The newest good, verified and restored backups are kept. Prints the expired backups that are kept, with the reason.
    """
    result = backups_of(load_settings()).cleanup(dry_run=dry_run)
    if as_json:
        names = {"removed": result.removed, "in_use": result.in_use, "unfinished": result.unfinished}
        lists = {key: list(value) for key, value in names.items()}
        click.echo(json.dumps({**lists, "kept": _skipped_as_json(result.kept)}))
        return
    for name in result.removed:
        click.echo(f"{'would remove' if dry_run else 'removed'} {name}")
    for each in (*(Skipped(name, "in use") for name in result.in_use), *result.kept):
        click.echo(f"kept {each.name}: {each.reason}")
    for name in result.unfinished:
        click.echo(f"removed the unfinished backup {name}")
    if not any(result):
        click.echo("nothing to remove")


@backup.command()
@click.option("--once", is_flag=True, help="Create the backup that is due, if any, and exit.")
@click.option("--show", is_flag=True, help="Only print the next five times of BACKUP_SCHEDULE.")
def schedule(*, once: bool, show: bool) -> int:
    """Create backups by BACKUP_SCHEDULE until SIGTERM, as `vsyncd serve` does.

    One process of all that use the database, including `vsyncd serve`, creates each backup. Missed backups are made up.
    """
    settings = load_settings()
    if settings.backup_schedule is None:
        raise click.ClickException("BACKUP_SCHEDULE is not set")
    if show:
        for at in itertools.islice(times(parse_schedule(settings.backup_schedule), datetime.now(UTC)), 5):
            click.echo(f"{at:%Y-%m-%d %H:%M:%S} UTC")
        return 0
    # Imported late: it loads the pool and the jobs.
    from vsyncd.cli.backup_scheduler import run_scheduler  # noqa: PLC0415 - see above

    return run_scheduler(settings, once=once)


def _select(backups: Backups, name: str) -> tuple[str, Sequence[Skipped]]:
    """Select a backup, and report the skipped ones before the long work starts."""
    backup, skipped = backups.select(name)
    for each in skipped:
        click.echo(f"vsyncd: skipped {each.name}: {each.reason}", err=True)
    if skipped:
        click.echo(f"vsyncd: latest is {backup.name}", err=True)
    return backup.name, skipped


def _skipped_as_json(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    return [each._asdict() for each in skipped]


def _as_json(each: Backup) -> dict[str, object]:
    manifest, verification = each.manifest, each.verification
    return {
        "name": each.name,
        "state": each.state,
        "created_at": each.created_at.isoformat(),
        "size": each.size,
        "problems": list(each.findings),
        "ineligible_reason": each.ineligible_reason(datetime.now(UTC)),
        "verified_at": verification.verified_at.isoformat() if verification else None,
        "restored": verification is not None and verification.restored,
        "server_version": manifest.origin.server_version if manifest else None,
        "vsyncd_version": manifest.vsyncd_version if manifest else None,
        "duration_seconds": manifest.duration_seconds if manifest else None,
        "content": _content_as_json(manifest.content) if manifest else None,
    }


def _content_as_json(content: ContentSummary) -> dict[str, object]:
    return {**asdict(content), "tables": dict(content.tables), "migrations": dict(content.migrations)}


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
