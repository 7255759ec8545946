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

_json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, for machines.")
_quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")


@click.group()
def backup() -> None:
    """Back up the configured database, as the role of BACKUP_URL, or else of DB_MIGRATE_URL.

    Backups are kept in BACKUP_DIR, or in the S3-compatible store of BACKUP_S3_URL.
    """


@backup.command()
@_json_option
@_quiet_option
@for_running_server
def create(settings: Settings, *, as_json: bool, quiet: bool) -> None:
    """Make a backup: a dump, and a manifest of the same snapshot."""
    with stop_on_signals() as stop, progress_shown(quiet=quiet) as on_progress:
        made = backups_of(settings).create(on_progress=on_progress, stop=stop)
    if as_json:
        click.echo(json.dumps(_as_json(made)))
    else:
        click.echo(f"{made.name}  {_bytes(made.size)}  {made.manifest.seconds if made.manifest else 0:.1f} s")


@backup.command("list")
@_json_option
def list_(*, as_json: bool) -> None:
    """List the backups, the oldest first. Damaged is what lacks a file or failed its last verification,
    unrestorable what pg_restore could make nothing of."""
    settings = load_settings()
    backups = backups_of(settings)
    found = backups.list()
    _report_incomplete(backups)
    if as_json:
        click.echo(json.dumps([_as_json(each) for each in found]))
        return
    if not found:
        click.echo(f"there are no backups in {settings.backup_s3_url or settings.backup_dir}")
        return
    # Only now: it takes a while to load, and no other command needs it.
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.table import Table  # noqa: PLC0415 - see above

    table = Table("name", "created (UTC)", "size", "CIDs", "PostgreSQL", "schema", "state", box=None)
    for each in found:
        manifest = each.manifest
        cids = sum(cid_set.count for cid_set in manifest.census.cid_sets) if manifest else 0
        migrations = manifest.census.migrations if manifest else {}
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
    for each in found:
        for problem in each.findings:
            click.echo(f"{each.name}: {problem}")
        if each.is_ahead(now):
            click.echo(f"{each.name}: it is dated in the future, and does not count until then")


@backup.command()
@click.argument("name")
@click.option("--restore", is_flag=True, help="Restore it into a throwaway database too, and compare.")
@_json_option
@_quiet_option
@for_running_server
def verify(settings: Settings, *, name: str, restore: bool, as_json: bool, quiet: bool) -> None:
    """Read the backup NAME from end to end; `latest` is the newest good one. Fails when anything is wrong with it."""
    with stop_on_signals() as stop, progress_shown(quiet=quiet) as on_progress:
        backups = backups_of(settings)
        found, skipped = _selected(backups, name)
        verification = backups.verify(found, restore=restore, on_progress=on_progress, stop=stop)
    if as_json:
        result = {"name": found, "at": verification.at.isoformat(), "restored": verification.restored}
        click.echo(json.dumps(result | {"skipped": _plain_skipped(skipped)}))
    else:
        click.echo(f"{found}: {'restored for a test, and the same' if restore else 'every file is whole'}")


@backup.command("restore")
@click.argument("name")
@click.option("--to", "target", metavar="DATABASE", help="Restore into this database; default: the configured one.")
@click.option("--force", is_flag=True, help="Also where the database is not empty. It is kept under another name.")
@click.option("--no-roles", is_flag=True, help="Without owners and rights: all of it belongs to who restores.")
@_json_option
@_quiet_option
@for_running_server
def restore_(
    settings: Settings, *, name: str, target: str | None, force: bool, no_roles: bool, as_json: bool, quiet: bool
) -> None:
    """Restore the backup NAME; `latest` is the newest good one.

    It is restored into a new database, compared with what was dumped, and only then gets its name.
    """
    with stop_on_signals() as stop, progress_shown(quiet=quiet) as on_progress:
        backups = backups_of(settings)
        found, skipped = _selected(backups, name)
        done = backups.restore(
            found, target=target, replace_it=force, with_roles=not no_roles, on_progress=on_progress, stop=stop
        )
    if as_json:
        result = {"database": done.database, "replaced": done.replaced, "refused": list(done.refused)}
        click.echo(json.dumps({"name": found, **result, "skipped": _plain_skipped(skipped)}))
        return
    click.echo(f"restored {found} into {done.database}")
    for statement in done.refused:
        click.echo(f"somebody with the right to has to execute: {statement}")
    if done.replaced is not None:
        click.echo(f'what it was before is {done.replaced}; when it is not needed: DROP DATABASE "{done.replaced}"')


@backup.command()
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@_json_option
def cleanup(*, dry_run: bool, as_json: bool) -> None:
    """Remove the backups that RETENTION_DAYS and BACKUP_RETENTION_COUNT say, never the last good one. Reports which
    ones are kept nevertheless, and why."""
    cleaned = backups_of(load_settings()).cleanup(dry_run=dry_run)
    if as_json:
        names = {"removed": cleaned.removed, "in_use": cleaned.in_use, "unfinished": cleaned.unfinished}
        lists = {key: list(value) for key, value in names.items()}
        click.echo(json.dumps({**lists, "kept": _plain_skipped(cleaned.kept)}))
        return
    for name in cleaned.removed:
        click.echo(f"{'would remove' if dry_run else 'removed'} {name}")
    for name in cleaned.in_use:
        click.echo(f"left {name}, which is in use")
    for each in cleaned.kept:
        click.echo(f"kept {each.name}: {each.reason}")
    for name in cleaned.unfinished:
        click.echo(f"cleared away {name}, which was never finished")
    if not any(cleaned):
        click.echo("nothing to do")


@backup.command()
@click.option("--once", is_flag=True, help="Make the backup that is due, if one is, and end.")
@click.option("--show", is_flag=True, help="Only print the next five times that BACKUP_SCHEDULE comes to.")
def schedule(*, once: bool, show: bool) -> int:
    """Make backups by BACKUP_SCHEDULE until SIGTERM, as `vsyncd serve` does beside its calls.

    Of all processes over a database, those of `vsyncd serve` too, one makes each. A run that was missed is made up for.
    """
    settings = load_settings()
    if settings.backup_schedule is None:
        raise click.ClickException("BACKUP_SCHEDULE is not set")
    if show:
        for at in itertools.islice(times(parse_schedule(settings.backup_schedule), datetime.now(UTC)), 5):
            click.echo(f"{at:%Y-%m-%d %H:%M:%S} UTC")
        return 0
    # Only now: it brings the pool and the jobs with it.
    from vsyncd.cli.backup_scheduler import run_scheduler  # noqa: PLC0415 - see above

    return run_scheduler(settings, once=once)


def _selected(backups: Backups, name: str) -> tuple[str, Sequence[Skipped]]:
    """The name of the backup, and the newer ones that are skipped. Reports both before the long work begins."""
    backup, skipped = backups.select(name)
    for each in skipped:
        click.echo(f"vsyncd: skipped {each.name}: {each.reason}", err=True)
    if skipped:
        click.echo(f"vsyncd: latest is {backup.name}", err=True)
    return backup.name, skipped


def _report_incomplete(backups: Backups) -> None:
    for each in backups.incomplete():
        click.echo(f"vsyncd: {each.name} is not listed: it has no manifest", err=True)


def _plain_skipped(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    return [each._asdict() for each in skipped]


def _as_json(each: Backup) -> dict[str, object]:
    manifest, verification = each.manifest, each.verification
    return {
        "name": each.name,
        "state": each.state,
        "created_at": each.created_at.isoformat(),
        "size": each.size,
        "problems": list(each.findings),
        "unfit": each.unfit(datetime.now(UTC)),
        "verified_at": verification.at.isoformat() if verification else None,
        "restored": verification is not None and verification.restored,
        "server_version": manifest.origin.server_version if manifest else None,
        "vsyncd_version": manifest.vsyncd_version if manifest else None,
        "seconds": manifest.seconds if manifest else None,
        "census": _plain(manifest.census) if manifest else None,
    }


def _plain(census: ContentSummary) -> dict[str, object]:
    return {**asdict(census), "tables": dict(census.tables), "migrations": dict(census.migrations)}


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
