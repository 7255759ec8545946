"""`vsyncd backup create | list | verify | restore | cleanup | schedule`."""

import itertools
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

import click
import uvloop

from vsyncd.backup.manager import Backups
from vsyncd.backup.records import Backup, Skipped
from vsyncd.backup.tasks import Progress as Step
from vsyncd.backup.tasks import Task
from vsyncd.cli.options import for_running_server, json_option
from vsyncd.config import Settings
from vsyncd.config.schedules import parse_schedule, times
from vsyncd.core.errors import ServiceError
from vsyncd.domains.registry import load_settings
from vsyncd.jobs.backups import BackupJobs, backups_of
from vsyncd.jobs.ledger import JobLedger
from vsyncd.jobs.runner import Job, JobFailed, JobRunner
from vsyncd.observability import logs
from vsyncd.postgres.database import Database
from vsyncd.signals import StopSignals

# A stop ends pg_dump and removes its incomplete files.
_STOP_TIMEOUT_S: Final = 60.0

_log = logs.logger(__name__)

_quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")

_DESCRIPTIONS: Final = {
    "dump": "dumping",
    "checksums": "computing checksums",
    "store": "storing",
    "verify": "verifying",
    "fetch": "fetching",
    "restore": "restoring",
    "compare": "comparing",
}


@click.group()
def backup() -> None:
    """Back up the configured database.

    Connects as the role of BACKUP_URL, or else of DB_MIGRATE_URL. Stores backups in BACKUP_DIR, or in the
    S3-compatible store of BACKUP_S3_URL.
    """


@backup.command()
@json_option
@_quiet_option
@for_running_server
def create(settings: Settings, *, as_json: bool, quiet: bool) -> None:
    """Create a backup: a dump and a manifest of the same snapshot."""
    with _task(quiet=quiet) as task:
        made = backups_of(settings).create(task)
    if as_json:
        click.echo(json.dumps(_as_json(made)))
    else:
        seconds = made.manifest.duration_seconds if made.manifest else 0
        click.echo(f"created {made.name}: {_bytes(made.size)} in {seconds:.1f} s")


@backup.command("list")
@json_option
@for_running_server
def list_(settings: Settings, *, as_json: bool) -> None:
    """List the backups, oldest first.

    States: unverified; verified (all files were read); restored (restored and compared too); damaged (files are missing
    or changed); unrestorable (pg_restore failed).
    """
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
    # Imported here because rich is slow, and only this command needs it.
    from vsync.cli.console import stdout  # noqa: PLC0415 - see above
    from vsync.cli.tables import print_table  # noqa: PLC0415 - see above

    columns = ("name", "created (UTC)", "size", "CIDs", "PostgreSQL", "migrations", "state")
    print_table(stdout(), columns, map(_row, backups))
    now = datetime.now(UTC)
    for each in backups:
        for problem in each.findings:
            click.echo(f"{each.name}: {problem}")
        if each.is_postdated(now):
            click.echo(f"{each.name}: dated in the future, ignored until then")


def _row(each: Backup) -> tuple[str | int, ...]:
    manifest = each.manifest
    migrations = manifest.content.migrations if manifest else {}
    return (
        each.name,
        f"{each.created_at:%Y-%m-%d %H:%M:%S}",
        _bytes(each.size),
        sum(cid_set.count for cid_set in manifest.content.cid_sets) if manifest else 0,
        manifest.origin.server_version.partition(" ")[0] if manifest else "",
        " ".join(f"{name} {version}" for name, version in migrations.items()),
        each.state,
    )


@backup.command()
@click.argument("name")
@click.option("--restore", is_flag=True, help="Also restore it into a temporary database and compare the contents.")
@json_option
@_quiet_option
@for_running_server
def verify(settings: Settings, *, name: str, restore: bool, as_json: bool, quiet: bool) -> None:
    """Verify the checksums of the backup NAME; `latest` is the newest good one. Exits with 1 if it is damaged."""
    with _task(quiet=quiet) as task:
        backups = backups_of(settings)
        found, skipped = _select(backups, name)
        verification = backups.verify(found, task, restore=restore)
    if as_json:
        result = {"name": found, "verified_at": verification.verified_at.isoformat(), "restored": verification.restored}
        click.echo(json.dumps(result | {"skipped": _skipped_as_json(skipped)}))
    else:
        click.echo(f"{found}: {'restored, and the content is equal' if restore else 'all files are intact'}")


@backup.command("restore")
@click.argument("name")
@click.option("--to", "target", metavar="DATABASE", help="Restore into this database; default: the configured one.")
@click.option("--force", is_flag=True, help="Replace a database that is not empty. It is kept under another name.")
@click.option(
    "--no-roles", is_flag=True, help="Do not restore owners and privileges. The role that restores owns every object."
)
@json_option
@_quiet_option
@for_running_server
def restore_(
    settings: Settings, *, name: str, target: str | None, force: bool, no_roles: bool, as_json: bool, quiet: bool
) -> None:
    """Restore the backup NAME; `latest` is the newest good one.

    Restores into a new database, compares its content with the manifest, and then renames it.
    """
    with _task(quiet=quiet) as task:
        backups = backups_of(settings)
        found, skipped = _select(backups, name)
        done = backups.restore(found, task, target=target, replace_target=force, with_roles=not no_roles)
    if as_json:
        result = {"database": done.database, "replaced": done.replaced, "refused": list(done.refused)}
        click.echo(json.dumps({"name": found, **result, "skipped": _skipped_as_json(skipped)}))
        return
    click.echo(f"restored {found} into {done.database}")
    for statement in done.refused:
        click.echo(f"run as a privileged role: {statement}")
    if done.replaced is not None:
        click.echo(f'the previous database is now {done.replaced}; to delete it: DROP DATABASE "{done.replaced}"')


@backup.command()
@click.option("--dry-run", is_flag=True, help="Print what would be removed, and remove nothing.")
@json_option
@for_running_server
def cleanup(settings: Settings, *, dry_run: bool, as_json: bool) -> None:
    """Remove backups according to RETENTION_DAYS and BACKUP_RETENTION_COUNT, but never the last good one.

    Reports the backups that are kept although the retention has ended, with the reason.
    """
    cleaned = backups_of(settings).cleanup(dry_run=dry_run)
    if as_json:
        names = {"removed": cleaned.removed, "in_use": cleaned.in_use, "unfinished": cleaned.unfinished}
        lists = {key: list(value) for key, value in names.items()}
        click.echo(json.dumps({**lists, "kept": _skipped_as_json(cleaned.kept)}))
        return
    for name in cleaned.removed:
        click.echo(f"{'would remove' if dry_run else 'removed'} {name}")
    for each in (*(Skipped(name, "in use") for name in cleaned.in_use), *cleaned.kept):
        click.echo(f"kept {each.name}: {each.reason}")
    for name in cleaned.unfinished:
        click.echo(f"removed the unfinished backup {name}")
    if not any(cleaned):
        click.echo("nothing to remove")


@backup.command()
@click.option("--once", is_flag=True, help="Create the backup that is due, if any, and exit.")
@click.option("--show", is_flag=True, help="Print the next five times of BACKUP_SCHEDULE, and exit.")
def schedule(*, once: bool, show: bool) -> int:
    """Create backups according to BACKUP_SCHEDULE until SIGTERM, as `vsyncd serve` also does.

    If several processes use one database, exactly one of them creates each backup. A missed run is made up for.
    """
    settings = load_settings()
    if settings.backup_schedule is None:
        raise click.ClickException("BACKUP_SCHEDULE is not set")
    if show:
        for at in itertools.islice(times(parse_schedule(settings.backup_schedule), datetime.now(UTC)), 5):
            click.echo(f"{at:%Y-%m-%d %H:%M:%S} UTC")
        return 0
    logs.configure(level=settings.log_level, form=settings.log_format)
    # No idle connections: the job ledger is read rarely.
    return uvloop.run(_schedule(settings.model_copy(update={"db_min_connections": 0}), once=once))


async def _schedule(settings: Settings, *, once: bool) -> int:
    signals = StopSignals(timeout=_STOP_TIMEOUT_S)
    async with AsyncExitStack() as stack:
        database = Database(settings)
        await database.open()
        stack.push_async_callback(database.close)
        ledger = JobLedger(database)
        job = BackupJobs(settings, ledger).backup_job
        runner = JobRunner([job], ledger)
        if once:
            try:
                return not await signals.run_until_stopped(_run_if_due(runner, ledger, job))
            except (ServiceError, JobFailed) as failure:
                _log.error("backup failed", reason=getattr(failure, "reason", str(failure)))
                return 1
        runner.start()
        stack.push_async_callback(runner.stop)
        _log.info("backup scheduler started", schedule=settings.backup_schedule)
        await signals.wait()
    return 0


async def _run_if_due(runner: JobRunner, ledger: JobLedger, job: Job) -> None:
    last_run = await ledger.find(job.name)
    due = job.due_at(last_run)
    if due > last_run.now:
        _log.info("no backup is due", due=due.isoformat(timespec="seconds").replace("+00:00", "Z"))
    elif not await runner.run_now(job):
        _log.info("another process is making the backup")


def _select(backups: Backups, name: str) -> tuple[str, Sequence[Skipped]]:
    """Returns the backup's name and the newer backups that are skipped. Prints both before the long work begins."""
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
        "content": asdict(manifest.content) if manifest else None,
    }


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


@contextmanager
def _task(*, quiet: bool) -> Iterator[Task]:
    """Shows the progress on standard error if that is a terminal.

    SIGTERM and Ctrl-C stop the task, which first removes incomplete files and databases.
    """
    with nullcontext(Task()) if quiet or not sys.stderr.isatty() else _progress_shown() as task:
        before = {number: signal.signal(number, lambda *_: task.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield task
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _progress_shown() -> Iterator[Task]:
    # Imported here because it is slow, and only a terminal needs it.
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("connecting", total=None)
        last_step = ""

        def on_progress(step: Step) -> None:
            nonlocal last_step
            total = step.total or None
            # Draws each new step at once: it may end before the next regular refresh.
            shown.update(
                task,
                description=_describe(step),
                completed=step.done if total else 0,
                total=total,
                refresh=step.step != last_step,
            )
            last_step = step.step

        yield Task(on_progress)


def _describe(step: Step) -> str:
    description = _DESCRIPTIONS[step.step]
    if step.step == "dump":
        return f"{description}, table {step.done}, {step.written / 2**20:,.0f} MiB"
    if step.step == "restore":
        return f"{description}, table {step.done} of {step.total}"
    return description
